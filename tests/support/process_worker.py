"""Trains a tiny run under torchrun, and saves the final state of each process.

process_worker.py OUT KILL [override ...], where KILL is `none` or `RANK@STEP@SIGNAL`: this process sends itself the
signal at this step, the first time it gets there.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from codec.training import Trainer
from scripts.command_line import execute
from scripts.composition import open_run
from tiny_command import TINY, composed


def train() -> None:
    out, kill, *overrides = sys.argv[1:]
    with open_run(composed("train", *TINY, *overrides)) as trainer:
        if kill != "none" and not (Path(out) / "killed").exists():
            rank, step, name = kill.split("@")
            signal_at(trainer, int(rank), int(step), signal.Signals[name], mark=Path(out) / "killed")
        trainer.run()
        processes = trainer.processes
        torch.save(trainer.state_dict(), Path(out) / f"{processes.rank} of {processes.world_size}.pt")


def signal_at(trainer: Trainer, rank: int, step: int, number: int, mark: Path) -> None:
    receive = trainer._receive

    def stop(batch: object) -> torch.Tensor:
        if trainer.processes.rank == rank and trainer.step == step:
            mark.touch()
            os.kill(os.getpid(), number)
        return receive(batch)  # type: ignore[arg-type]

    setattr(trainer, "_receive", stop)  # noqa: B010 (mypy takes methods for constants)


if __name__ == "__main__":
    execute(train, "stopped")
