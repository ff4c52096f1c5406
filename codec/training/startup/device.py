"""Settings of torch that belong to the training device."""

import os

import torch

from codec.quantization.ieee import allow_tf32

__all__ = ["use_device"]


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
