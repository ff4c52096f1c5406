"""Checks and precision of the signals that losses and discriminators receive."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "at_least_float32",
    "check_audio",
    "check_pair",
    "reflect_pad",
    "without_autocast",
]


def check_pair(estimate: Tensor, reference: Tensor, minimum_samples: int = 1) -> None:
    """Checks that a loss can compare two signals.

    Args:
        estimate: Output of the codec.
        reference: Input of the codec.
        minimum_samples: Fewest samples that the loss accepts.

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
        ValueError: The signal has other than three axes, an empty axis or fewer than `minimum_samples` samples.
    """
    if audio.dim() != 3 or 0 in audio.shape[:2]:
        raise ValueError(f"expected audio [B, C, T], got {list(audio.shape)}")
    if audio.shape[-1] < minimum_samples:
        raise ValueError(f"expected at least {minimum_samples} samples, got audio of {audio.shape[-1]} samples")


def reflect_pad(signal: Tensor, left: int, right: int) -> Tensor:
    """Reflection padding of the last axis. Its gradient is deterministic on CUDA if torch asks for that.

    Shape: [*, T] -> [*, left + T + right]; T is larger than `left` and `right`.
    """
    if not (signal.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return F.pad(signal, (left, right), mode="reflect")
    ends = signal[..., 1 : left + 1].flip(-1), signal[..., signal.shape[-1] - right - 1 : -1].flip(-1)
    return torch.cat([ends[0], signal, ends[1]], dim=-1)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Converts float16 and bfloat16 to float32. Float32 and float64 are returned as they are.

    Shape: [*] -> [*].
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def without_autocast(tensor: Tensor) -> torch.autocast:
    """Context without autocast on the device of `tensor`.

    Bfloat16 has 8 significant bits, too few for a sum over a second of audio.
    """
    return torch.autocast(tensor.device.type, enabled=False)
