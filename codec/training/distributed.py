"""Several processes that train one model together, as `torchrun` starts them; alone, all of it costs nothing.

Every process holds the whole model and a part of the batch. What decides the course of the run is the same in all of
them: gradients, codebooks and the balancer's statistics are those of the whole batch, and one process answers what
only one can know. So a step on W processes is the step of one process on the same batch, up to rounding.
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

__all__ = ["Processes", "joined"]

_T = TypeVar("_T")
_PATIENCE = timedelta(hours=2)  # others wait while the first process fetches a corpus or validates


class Processes:
    """The processes of a run, seen from one of them; `Processes()` is a run of one.

    Collective: all processes have to call the same methods in the same order.

    Args:
        rank: Number of this process, from 0.
        world_size: How many there are; more than one wants an initialised default process group.
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes, scores and speaks for all."""
        return self.rank == 0

    def data_parallel(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module, with parameters as in the first process and gradients averaged over all in a backward pass."""
        if self.world_size == 1:
            return module
        settings: dict[str, Any] = {"device_ids": [device] if device.type == "cuda" else None}
        # Buffers need no broadcast in each step: all processes derive them from the same sums.
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = (
            "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        )  # before torch 2.12
        return DistributedDataParallel(module, **settings | {buffers: False})

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """For a module whose backward pass is not one of `data_parallel`."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.world_size == 1 or not gradients:
            return
        joined_up = self.all_reduce_mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, joined_up.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def all_reduce_mean(self, tensor: Tensor) -> Tensor:
        """Shape: [*] floating point -> [*]."""
        if self.world_size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total / self.world_size

    def all_reduce_and(self, flags: Tensor) -> Tensor:
        """Shape: [*] bool -> [*] bool, true where it is in every process."""
        if self.world_size == 1:
            return flags
        votes = flags.to(torch.uint8)
        dist.all_reduce(votes, dist.ReduceOp.MIN)
        return votes.bool()

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, in their order. Shape: [n, *] -> [world_size * n, *]."""
        if self.world_size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def all_gather_object(self, value: _T) -> list[_T]:
        """The values of all processes, in their order; of plain Python, for what is asked once."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast_object(self, value: _T) -> _T:
        """The value of the first process; of plain Python."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Gives every process the first one's tensors, in place."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The first process runs the block while the others wait: it fetches and caches what they then find."""
        if self.world_size > 1 and not self.is_main:
            dist.barrier()
        yield
        if self.world_size > 1 and self.is_main:
            dist.barrier()


@contextmanager
def joined(device: torch.device | str) -> Iterator[tuple[Processes, torch.device]]:
    """The processes that torchrun says there are, and the device of this one: gloo on a CPU, NCCL on GPUs.

    Args:
        device: As asked for; of several processes on a machine each takes the GPU of its local rank.
    """
    device = torch.device(device)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        yield Processes(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    store, rank, _ = next(dist.rendezvous("env://", timeout=_PATIENCE))
    # torchrun may keep its store when it starts a run again, and with it the addresses of processes that are gone.
    attempt = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=count, timeout=_PATIENCE)
    try:
        yield Processes(rank, count), device
    finally:
        dist.destroy_process_group()
