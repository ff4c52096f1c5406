"""Losses from outside the package: what they may declare, and what they need not."""

import pytest
import torch
from torch import Tensor, nn

from losses import L1, MultiScaleMel, Tonality, constant_baselines, minimum_samples, segment_samples


class PreEmphasis(nn.Module):
    """L1 of first differences, a loss that shares no code with this package."""

    minimum_samples = 2
    window_samples = 64

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        return (estimate - reference).diff().abs().mean()

    def constant_baseline(self, reference: Tensor) -> Tensor:
        return reference.diff().abs().mean()


def test_a_loss_declares_its_lengths_and_its_constant_baseline() -> None:
    loss, reference = PreEmphasis(), torch.tensor([[[0.0, 2.0, 1.0]]])
    assert (minimum_samples(loss), segment_samples(loss)) == (2, 64)
    assert constant_baselines({"pre_emphasis": loss}, [reference]) == {"pre_emphasis": 1.5}


def test_a_loss_of_torch_needs_no_declaration() -> None:
    loss = nn.L1Loss()
    assert (minimum_samples(loss), segment_samples(loss)) == (1, 1)
    assert constant_baselines({"l1": loss}, []) == {}


@pytest.mark.parametrize(
    ("loss", "minimum", "segment"),
    [(L1(), 1, 1), (MultiScaleMel(24_000, [11]), 769, 2048), (Tonality(1024), 1024, 1024)],
)
def test_a_training_segment_holds_one_window(loss: nn.Module, minimum: int, segment: int) -> None:
    assert (minimum_samples(loss), segment_samples(loss)) == (minimum, segment)
