"""Means of metrics over a log interval. They stay on the device until they are read once per interval."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from codec.training.distributed import Processes

__all__ = ["Meters"]


class Meters:
    """Accumulates the metrics of training steps since the last `read`.

    Args:
        processes: Means are over all of them.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._unread: list[tuple[str, Tensor]] = []
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
        self._unread += [(name, value.detach()) for name, value in metrics.items()]
        self._timed_steps += 1
        self._busy_seconds += time.monotonic() - since

    def read(self, audio_seconds_per_step: float) -> dict[str, float]:
        """Means over all processes and over the steps that reported a metric, then resets.

        Args:
            audio_seconds_per_step: Seconds of audio in a batch over all processes.
        """
        if not self._timed_steps:
            return {}
        totals = self._totals()
        means = {name: value / self._counts[name] for name, value in totals.items()}
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
        sums = self._totals()
        return {"sums": sums, "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._clear()
        self._sums = dict(state["sums"])
        self._counts = dict(state["counts"])

    def _totals(self) -> dict[str, float]:
        """The sums, averaged over the processes. Scalars are read from the device together."""
        for name, value in zip([name for name, _ in self._unread], self._read_scalars(), strict=True):
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._unread = []
        if self._processes.world_size == 1 or not self._sums:  # every step of the interval was skipped
            return dict(self._sums)
        totals = self._processes.all_gather_object(list(self._sums.values()))
        return dict(zip(self._sums, [sum(each) / len(totals) for each in zip(*totals, strict=True)], strict=True))

    def _read_scalars(self) -> list[float]:
        """Values of all unread scalars, with one transfer per device and dtype."""
        groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for position, (_, value) in enumerate(self._unread):
            groups.setdefault((value.device, value.dtype), []).append(position)
        values = [0.0] * len(self._unread)
        for positions in groups.values():
            read = torch.stack([self._unread[position][1] for position in positions]).tolist()
            for position, value in zip(positions, read, strict=True):
                values[position] = value
        return values
