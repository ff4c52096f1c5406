"""The training device, and the settings of torch that belong to it."""

import os

import torch

from codec.quantization.ieee import allow_tf32

__all__ = ["select_device", "use_device"]


def select_device(requested: str) -> str:
    """The device to train on: `requested`, or for `auto` a GPU if there is one.

    Nothing is allocated: that would take memory on the first GPU in each of several processes.

    Raises:
        ValueError: The device is not available.
    """
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise ValueError(f"trainer.device={requested} is not available: expected auto, cpu, cuda or cuda:N") from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"trainer.device={requested} is not available: {count} GPUs are visible; expected auto or cpu")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"trainer.device={requested} is not supported, because statistics need float64: expected auto, cpu or cuda"
        )
    return requested


def use_device(device: torch.device, tf32: bool, deterministic: bool) -> None:
    """Sets TF32 and deterministic algorithms for the rest of the process. On a CPU nothing needs to be set.

    Args:
        tf32: See `codec.quantization.ieee.allow_tf32`.
        deterministic: Allow only algorithms whose result is the same in every run.
    """
    if device.type != "cuda":
        return
    allow_tf32(tf32)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
        torch.use_deterministic_algorithms(True)
        # All memory here is written before it is read.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
