"""Sums, means and maxima over the processes that train together; without a process group, this process alone."""

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["max_over_processes", "mean_over_processes", "num_processes", "sum_over_processes"]


def num_processes() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(values: Tensor) -> Tensor:
    """Shape: [*] -> [*]."""
    if num_processes() > 1:
        values = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(values)
    return values


def mean_over_processes(values: Tensor) -> Tensor:
    """Shape: [*] -> [*]."""
    return sum_over_processes(values) / num_processes() if num_processes() > 1 else values


def max_over_processes(values: Tensor) -> Tensor:
    """Maximum of values without NaN. Shape: [*] -> [*]."""
    if num_processes() > 1:
        values = values.clone()
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values
