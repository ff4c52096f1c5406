"""Polarity."""

import torch
from torch import Tensor

from codec.ranges import Probability, check_ranges
from data.transforms.draws import draw

__all__ = ["RandomPolarity"]


class RandomPolarity:
    """Multiplies all channels of a segment by -1. Listeners do not hear it, and a codec should not depend on it.

    Args:
        probability: Of a change.

    Raises:
        ValueError: The probability is not in [0, 1].
    """

    def __init__(self, probability: Probability = 0.5) -> None:
        check_ranges(RandomPolarity.__init__, locals())
        self.probability = probability

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """Shape: [C, T] -> [C, T]."""
        return -audio if draw(0, 1, generator) < self.probability else audio
