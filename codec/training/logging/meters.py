"""Averages of a log interval, kept on the device and read once."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from codec.quantization.residual import CodebookUsage
from codec.training.distributed import Processes

__all__ = ["Meters", "codebook_metrics"]


class Meters:
    """Sums of what training steps report since the last reading."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._steps = 0
        self._busy_seconds = 0.0
        self._waited_seconds = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what a step waits for before it can begin: the next batch."""
        begun = time.monotonic()
        yield
        self._waited_seconds += time.monotonic() - begun

    def add(self, metrics: dict[str, Tensor], since: float) -> None:
        """Adds the scalars of one step, begun at `time.monotonic() == since`."""
        for name, value in metrics.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] += 1
        self._steps += 1
        self._busy_seconds += time.monotonic() - since

    def read(self, audio_seconds_per_step: float, processes: Processes) -> dict[str, float]:
        """Means over processes and steps since the last reading, each over the steps that reported it; starts anew."""
        if not self._steps:
            return {}
        values = dict(zip(self._sums, _to_floats(list(self._sums.values()), processes), strict=True))
        means = {name: value / self._counts[name] for name, value in values.items()}
        busy = max(self._busy_seconds, 1e-9)
        pace = {
            "audio_seconds_per_second": audio_seconds_per_step * self._steps / busy,
            "data_wait_fraction": self._waited_seconds / busy,
        }
        self._clear()
        return means | pace


def codebook_metrics(usage: CodebookUsage) -> dict[str, float]:
    """`codebook/<k>/<quantity>` for every book and quantity of `usage`."""
    named = usage._asdict().items()
    return {f"codebook/{k}/{name}": value for name, per_book in named for k, value in enumerate(per_book.tolist())}


def _to_floats(tensors: list[Tensor], processes: Processes) -> list[float]:
    """One transfer for all; scalars may live on different devices."""
    if not tensors:  # every step of the interval was skipped
        return []
    device = next((t.device for t in tensors if t.device.type != "cpu"), torch.device("cpu"))
    result: list[float] = processes.all_reduce_mean(torch.stack([t.to(device) for t in tensors])).tolist()
    return result
