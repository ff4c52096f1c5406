"""Means of metrics over a log interval. They stay on the device until they are read once per interval."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from codec.quantization.residual import CodebookUsage
from codec.training.distributed import Processes

__all__ = ["Meters", "codebook_metrics"]


class Meters:
    """Accumulates the metrics of training steps since the last `read`.

    Args:
        processes: Means are over all of them.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._timed_steps = 0
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
            self._counts[name] = self._counts.get(name, 0) + 1
        self._timed_steps += 1
        self._busy_seconds += time.monotonic() - since

    def read(self, audio_seconds_per_step: float) -> dict[str, float]:
        """Means over all processes and over the steps that reported a metric, then resets.

        Args:
            audio_seconds_per_step: Seconds of audio in a batch over all processes.
        """
        if not self._timed_steps:
            return {}
        means = {name: value / self._counts[name] for name, value in self._totals().items()}
        busy = max(self._busy_seconds, 1e-9)
        speed = {
            "audio_seconds_per_second": audio_seconds_per_step * self._timed_steps / busy,
            "data_wait_fraction": self._wait_seconds / busy,
            "seconds_per_step": busy / self._timed_steps,
        }
        self._clear()
        return means | speed

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last `read`, without times. All processes must call it."""
        return {"sums": self._totals(), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._clear()
        self._sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in state["sums"].items()}
        self._counts = dict(state["counts"])

    def _totals(self) -> dict[str, float]:
        """The sums, averaged over the processes. One transfer for all, which may be on different devices."""
        tensors = list(self._sums.values())
        if not tensors:  # every step of the interval was skipped
            return {}
        device = next((t.device for t in tensors if t.device.type != "cpu"), torch.device("cpu"))
        totals = self._processes.all_reduce_mean(torch.stack([t.to(device) for t in tensors]))
        return dict(zip(self._sums, totals.tolist(), strict=True))


def codebook_metrics(usage: CodebookUsage) -> dict[str, float]:
    """`codebook/<k>/<quantity>` for every codebook and quantity of `usage`."""
    named = usage._asdict().items()
    return {f"codebook/{k}/{name}": value for name, values in named for k, value in enumerate(values.tolist())}
