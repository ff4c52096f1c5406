"""Sums over the processes that train together; without a process group, this process alone."""

import torch.distributed as dist
from torch import Tensor

__all__ = ["all_reduce", "rank", "world_size"]


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum over processes, in place. Shape: [*] -> [*]."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor
