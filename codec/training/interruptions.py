"""When a run saves besides its checkpoint interval: after some minutes, and before it stops at a signal.

The first signal lets the step finish. A Ctrl-C after it stops the process at once, which loses the steps since the last
checkpoint and nothing else: every file is written beside its place and renamed. Other repeated signals change nothing:
SLURM and systemd signal all processes, and torchrun passes its signal on to processes that have it already.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from codec.training.distributed import Processes

__all__ = ["Interruptions", "TrainingStopped"]

# A lost terminal sends SIGHUP. SLURM sends SIGUSR1 before the time limit (sbatch --signal=USR1@120).
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class TrainingStopped(KeyboardInterrupt):
    """A signal has stopped the run. The message says what is saved and how to resume; other ranks have none.

    Attributes:
        exit_status: Conventional status of the process, 128 plus the number of the signal.
    """

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.exit_status = 128 + number


class Interruptions:
    """Requests to save, and to save and stop. All processes agree on them once per step.

    Args:
        checkpoint_minutes: Longest time between two checkpoints; None sets no limit.
        processes: The processes that train together.
        unsaved: The message of a run that stops without saving.

    Attributes:
        stop, save: What the processes agreed on in the last step.
        received: Number of the first signal; None if none came.
    """

    def __init__(self, checkpoint_minutes: float | None, processes: Processes, unsaved: Callable[[], str]) -> None:
        self._seconds = None if checkpoint_minutes is None else 60 * checkpoint_minutes
        self._processes, self._unsaved = processes, unsaved
        self.received: int | None = None
        self._stepping = False
        self._saved_at = time.monotonic()
        self.stop = self.save = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handles the signals, except those that are ignored (nohup ignores SIGHUP), in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        taken = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before: dict[int, Any] = {number: signal.signal(number, self._handle) for number in taken}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While steps are taken, the first signal is only noted. At other times it stops the run at once."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.received = self.received is None, self.received or number
        at_once = not self._stepping if first else number == signal.SIGINT
        if at_once:
            raise TrainingStopped(number, self._unsaved() if self._processes.is_main else "")

    def votes(self) -> Tensor:
        """This process's votes: that the run need not stop, and need not save. Shape: -> [2] bool."""
        due = self._seconds is not None and time.monotonic() - self._saved_at >= self._seconds
        return torch.tensor([self.received is None, not due])

    def agree(self, no_stop: bool, no_save: bool) -> None:
        """Sets the votes of all processes together."""
        self.stop, self.save = not no_stop, not (no_stop and no_save)

    def saved(self) -> None:
        """Must be called after each checkpoint; measures the time to the next."""
        self._saved_at = time.monotonic()

    def stopped(self, message: str) -> TrainingStopped:
        """The error that ends the run in this process. All processes must call it, and the main one has saved."""
        number = max(self._processes.all_gather_object(self.received or 0))
        return TrainingStopped(number, message if self._processes.is_main else "")
