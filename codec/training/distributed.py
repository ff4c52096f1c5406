"""Training of one model in several processes, as torchrun starts them.

Every process holds the whole model and a part of each batch. Gradients, codebooks and the balancer's statistics are
those of the whole batch, so a step of W processes equals a step of one process on the same batch, up to rounding.
"""

import inspect
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["Processes", "process_group"]

_T = TypeVar("_T")
_TIMEOUT = timedelta(hours=2)  # the others wait while the main process downloads a corpus or validates


class Processes:
    """Collective operations over the processes of a run; all processes must call them in the same order.

    With one process they return their input, and no process group is needed.

    Args:
        rank: Number of this process, from 0.
        world_size: Number of processes. More than one needs an initialized default process group.
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size

    @property
    def is_main(self) -> bool:
        """Whether this process validates, logs and saves."""
        return self.rank == 0

    def data_parallel(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module with the main process's parameters, and with gradients averaged in each backward pass."""
        if self.world_size == 1:
            return module
        # Buffers are equal without a broadcast: every process computes them from the same sums. The argument had
        # another name before torch 2.12.
        names = ("forward_sync_buffers", "broadcast_buffers")
        sync_buffers = next(name for name in names if name in inspect.signature(DistributedDataParallel).parameters)
        settings: dict[str, Any] = {"device_ids": [device] if device.type == "cuda" else None, sync_buffers: False}
        return DistributedDataParallel(module, **settings)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Averages the gradients of parameters that are not in a `data_parallel` module."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.world_size == 1 or not gradients:
            return
        mean = self.all_reduce_mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def all_reduce_mean(self, tensor: Tensor) -> Tensor:
        """Mean over the processes. Shape: [*] floating point -> [*]."""
        if self.world_size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total / self.world_size

    def all_reduce_and(self, flags: Tensor) -> Tensor:
        """True where all processes have True. Shape: [*] bool -> [*] bool."""
        if self.world_size == 1:
            return flags
        votes = flags.to(torch.uint8)
        dist.all_reduce(votes, dist.ReduceOp.MIN)
        return votes.bool()

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, in the order of ranks. Shape: [n, *] -> [world_size * n, *]."""
        if self.world_size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def all_gather_object(self, value: _T) -> list[_T]:
        """The values of all processes, in the order of ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast_object(self, value: _T) -> _T:
        """The value of the main process."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites the tensors with those of the main process."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The main process runs the block before the others do; they find what it has downloaded and cached."""
        if self.world_size > 1 and not self.is_main:
            dist.barrier()
        yield
        if self.world_size > 1 and self.is_main:
            dist.barrier()


@contextmanager
def process_group(device: torch.device | str) -> Iterator[tuple[Processes, torch.device]]:
    """Joins the process group that torchrun describes in the environment: gloo on a CPU, NCCL on GPUs.

    Args:
        device: Requested device. With several processes on `cuda`, each gets the GPU of its local rank, or the only one
            that it sees: SLURM can show every process a GPU of its own.

    Yields:
        The processes, and the device of this one.

    Raises:
        ValueError: Several processes would share one GPU.
    """
    device = torch.device(device)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1 or "RANK" not in os.environ:
        yield Processes(), device
        return
    if device.type == "cuda":
        device = _own_gpu(device)
        torch.cuda.set_device(device)
    store, rank, _ = next(dist.rendezvous("env://", timeout=_TIMEOUT))
    # torchrun can keep its store when it restarts a run. The store then holds addresses of processes that are gone.
    attempt = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"  # Python objects stay on the host
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=world_size, timeout=_TIMEOUT)
    try:
        yield Processes(rank, world_size), device
    finally:
        dist.destroy_process_group()


def _own_gpu(device: torch.device) -> torch.device:
    """The GPU of this process, one of several."""
    local_rank, visible = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if device.index is not None:
        raise ValueError(f"trainer.device={device} would give one GPU to several processes: set trainer.device=cuda")
    if visible > 1 and local_rank >= visible:
        raise ValueError(f"{visible} GPUs are visible, and the process of local rank {local_rank} would have none")
    return torch.device("cuda", local_rank if visible > 1 else 0)
