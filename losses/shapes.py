"""The one check that every loss makes on its two signals."""

from torch import Tensor

__all__ = ["check_audio", "check_pair"]


def check_pair(estimate: Tensor, reference: Tensor, minimum_samples: int = 1) -> None:
    """Checks that a loss can compare two signals.

    Args:
        estimate: Audio that came out of the codec.
        reference: Audio that went in.
        minimum_samples: Fewest samples that the loss can work on.

    Shape: estimate [B, C, T], reference [B, C, T].

    Raises:
        ValueError: The shapes differ, or are not [B, C, T] with at least `minimum_samples` samples.
    """
    if estimate.shape != reference.shape:
        raise ValueError(
            f"expected an estimate and a reference of one shape, got {list(estimate.shape)} and {list(reference.shape)}"
        )
    check_audio(estimate, minimum_samples)


def check_audio(audio: Tensor, minimum_samples: int = 1) -> None:
    """Checks that a signal is [B, C, T] and long enough.

    Shape: audio [B, C, T].

    Raises:
        ValueError: Another number of axes, an empty axis, or fewer than `minimum_samples` samples.
    """
    if audio.dim() != 3 or 0 in audio.shape[:2]:
        raise ValueError(f"expected audio [B, C, T], got {list(audio.shape)}")
    if audio.shape[-1] < minimum_samples:
        raise ValueError(f"expected at least {minimum_samples} samples, got audio of {audio.shape[-1]} samples")
