"""A random gain."""

import torch
from torch import Tensor

from codec.ranges import Decibels
from data.entries import DataError
from data.transforms.draws import draw

__all__ = ["RandomGain"]


class RandomGain:
    """Changes the level by a random gain, uniform in dB, but not beyond a peak of 1.

    EnCodec draws from -10 to 6 dB (Défossez et al., 2022, section 4.1).

    Args:
        minimum_db, maximum_db: Range of the gain.

    Raises:
        DataError: The range is empty.
    """

    def __init__(self, minimum_db: Decibels = -12.0, maximum_db: Decibels = 6.0) -> None:
        if not minimum_db <= maximum_db:
            raise DataError(f"expected minimum_db <= maximum_db, got {minimum_db:g} and {maximum_db:g}")
        self.minimum_db = minimum_db
        self.maximum_db = maximum_db

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """Shape: [C, T] -> [C, T]."""
        gain = 10 ** (draw(self.minimum_db, self.maximum_db, generator) / 20)
        peak = float(audio.abs().max()) if audio.numel() else 0.0
        return audio * (gain if peak * gain <= 1 else 1 / peak)
