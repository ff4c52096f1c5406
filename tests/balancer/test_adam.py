"""VectorAdam against torch.optim.Adam."""

import pytest
import torch
from torch import Tensor

from balancer.adam import VectorAdam

SETTINGS = [{"lr": 0.025}, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}]


def gradients(steps: int, size: int) -> Tensor:
    return torch.randn(steps, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Reference:
    """torch.optim.Adam on one number."""

    def __init__(self, value: Tensor, **settings: object) -> None:
        self.value = value.clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.value], **settings)  # type: ignore[arg-type]

    def step(self, gradient: Tensor) -> None:
        self.value.grad = gradient.clone()
        self.optimizer.step()


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_entry_is_a_separate_adam(settings: dict[str, float]) -> None:
    values = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
    references = [Reference(value, **settings) for value in values]
    adam = VectorAdam(3, **settings)
    for count, gradient in enumerate(gradients(20, 3)):
        # Entry 1 has a gradient in every third step, entry 2 from step 10 on.
        index = [i for i in range(3) if (i != 1 or count % 3 == 0) and (i != 2 or count >= 10)]
        adam(values, torch.tensor(index), gradient[index])
        for i in index:
            references[i].step(gradient[i])
        assert values.tolist() == pytest.approx([each.value.item() for each in references], rel=1e-12)


def test_an_empty_index_changes_nothing() -> None:
    adam, values = VectorAdam(2, 0.1), torch.ones(2, dtype=torch.float64)
    adam(values, torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.float64))
    assert values.tolist() == [1, 1]
    assert adam.count.tolist() == [0, 0]


def test_a_restored_state_continues_bit_for_bit() -> None:
    first, second = VectorAdam(3, 0.1), VectorAdam(3, 0.1)
    values, index = torch.zeros(3, dtype=torch.float64), torch.arange(3)
    steps = gradients(10, 3)
    for gradient in steps[:5]:
        first(values, index, gradient)
    second.load_state_dict(first.state_dict())
    resumed = values.clone()
    for gradient in steps[5:]:
        first(values, index, gradient)
        second(resumed, index, gradient)
    assert torch.equal(values, resumed)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("inf"), float("nan")])
def test_a_learning_rate_out_of_range_is_an_error(lr: float) -> None:
    with pytest.raises(ValueError, match=r"lr must be in \(0, inf\), got"):
        VectorAdam(2, lr)
