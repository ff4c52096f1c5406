"""Means of metrics over a log interval. They stay on the device until they are read once per interval."""

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
    """Accumulates the metrics of training steps since the last `read`."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._steps = 0
        self._busy_seconds = 0.0
        self._wait_seconds = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measures the time in which a step waits for its batch."""
        begun = time.monotonic()
        yield
        self._wait_seconds += time.monotonic() - begun

    def add(self, metrics: dict[str, Tensor], since: float) -> None:
        """Adds the scalars of one step that began at the `time.monotonic()` of `since`."""
        for name, value in metrics.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] += 1
        self._steps += 1
        self._busy_seconds += time.monotonic() - since

    def read(self, audio_seconds_per_step: float, processes: Processes) -> dict[str, float]:
        """Means over all processes and over the steps that reported a metric, then resets.

        Args:
            audio_seconds_per_step: Seconds of audio in a batch over all processes.
        """
        if not self._steps:
            return {}
        values = dict(zip(self._sums, _to_floats(list(self._sums.values()), processes), strict=True))
        means = {name: value / self._counts[name] for name, value in values.items()}
        busy = max(self._busy_seconds, 1e-9)
        speed = {
            "audio_seconds_per_second": audio_seconds_per_step * self._steps / busy,
            "data_wait_fraction": self._wait_seconds / busy,
        }
        self._clear()
        return means | speed


def codebook_metrics(usage: CodebookUsage) -> dict[str, float]:
    """`codebook/<k>/<quantity>` for every codebook and quantity of `usage`."""
    named = usage._asdict().items()
    return {f"codebook/{k}/{name}": value for name, values in named for k, value in enumerate(values.tolist())}


def _to_floats(tensors: list[Tensor], processes: Processes) -> list[float]:
    """One transfer for all scalars, which may be on different devices."""
    if not tensors:  # every step of the interval was skipped
        return []
    device = next((t.device for t in tensors if t.device.type != "cpu"), torch.device("cpu"))
    result: list[float] = processes.all_reduce_mean(torch.stack([t.to(device) for t in tensors])).tolist()
    return result
