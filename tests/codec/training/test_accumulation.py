"""A batch computed in parts gives the step of the whole batch."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from balancer import Balancer, GradNorm, Keep, Sum
from codec.training import Trainer
from codec.training.accumulation import losses_in_parts
from losses import AdversarialLoss
from tiny_run import initialized, take_steps, tidied, tiny_adversarial, tiny_codec, tiny_trainer

# Adam would turn the rounding of a gradient that is 0 into a step of full size.
SGD = partial(torch.optim.SGD, lr=1e-3)


@pytest.fixture(autouse=True)
def _tidied() -> Iterator[None]:
    with tidied():
        yield


def after_steps(folder: Path, update: Any, accumulate: int) -> tuple[Trainer, list[dict[str, Tensor]]]:
    folder.mkdir()
    adversarial = tiny_adversarial(optimizer=SGD, update=update)
    adversarial.loss = AdversarialLoss(feature_matching="plain")  # a mean over the items of a batch
    codec = initialized(tiny_codec(dead_code_threshold=0.5))
    trainer = tiny_trainer(
        folder,
        codec=codec,
        adversarial=adversarial,
        encodec=True,
        monitor_every=0,
        accumulate=accumulate,
        optimizer=SGD,
    )
    return trainer, take_steps(trainer, 3)


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_a_step_in_parts_is_that_of_the_whole_batch(tmp_path: Path, update: Any) -> None:
    whole, expected = after_steps(tmp_path / "whole", update, 1)
    parts, found = after_steps(tmp_path / "parts", update, 2)
    for name in ("codec", "balancer", "adversarial", "average"):
        state = {key: value for key, value in whole._parts()[name].state_dict().items() if isinstance(value, Tensor)}
        other = parts._parts()[name].state_dict()
        for key, value in state.items():
            torch.testing.assert_close(
                other[key], value, rtol=2e-3, atol=2e-5, msg=lambda text, key=key: f"{key}: {text}"
            )
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(mine[key].float(), value.float(), rtol=1e-3, atol=1e-5)


def test_losses_in_parts_are_means_with_their_gradients() -> None:
    estimate = torch.randn(4, 1, 9, requires_grad=True)
    reference = torch.randn(4, 1, 9)
    freed: list[Tensor] = []

    def losses(estimate: Tensor, reference: Tensor) -> dict[str, Tensor]:
        freed.append(estimate)
        return {"l1": nn.functional.l1_loss(estimate, reference), "constant": torch.tensor(3.0)}

    found = losses_in_parts(losses, estimate, reference, 2)
    expected = nn.functional.l1_loss(estimate, reference)
    torch.testing.assert_close(found["l1"], expected)
    assert found["constant"].item() == 3
    assert not found["constant"].requires_grad
    for _ in range(2):  # the graph is kept
        (gradient,) = torch.autograd.grad(found["l1"], [estimate], retain_graph=True)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, [estimate], retain_graph=True)[0])
    assert [len(part) for part in freed] == [2, 2]


def test_the_batch_must_be_divisible(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of trainer.accumulate, 3, got 2"):
        tiny_trainer(tmp_path, accumulate=3)


def test_strategies_that_measure_at_the_parameters_are_refused(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, accumulate=2)
    trainer.balancer = Balancer(trainer.balancer.weights, GradNorm(norm_on="last_layer"), Sum(), Keep())
    with pytest.raises(ValueError, match="need shared_gradient"):
        take_steps(trainer, 1)
