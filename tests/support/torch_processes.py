"""Trains tiny runs in processes that train together, and saves the final state of each process.

All are forks of `fork_server`. Its request has
- "launcher": the number of processes, or a list of options of torchrun, which then starts the processes;
- "arguments": OUT, KILL, and overrides.
OUT is a folder for the states, output.txt and errors.txt. KILL is `none` or `RANK@STEP@SIGNAL`: this process sends
itself the signal at this step, the first time it gets there.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed import run as launcher
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

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


def train_together(request: dict[str, Any]) -> list[int] | None:
    """Returns the exit status of each process, or of torchrun, negative for a signal; None in a fork."""
    processes, arguments = request["launcher"], request["arguments"]
    ranks = range(processes) if isinstance(processes, int) else [None]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    children = []
    for rank in ranks:
        child = os.fork()
        if not child:
            signal.alarm(300)  # ends it if the others are gone; not inherited by a fork
            redirect(Path(arguments[0]))
            if rank is None:
                torchrun(processes, arguments)
            else:
                become(rank, len(ranks), port, arguments)
            return None
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def redirect(folder: Path) -> None:
    """Appends the output of this process and its children to output.txt and errors.txt."""
    for descriptor, name in ((1, "output.txt"), (2, "errors.txt")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)


def become(rank: int, count: int, port: int, arguments: list[str]) -> None:
    """Turns this process into one of a run, with the environment that torchrun sets."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    started(*arguments)


def started(*arguments: str) -> None:
    signal.alarm(300)
    sys.argv[1:] = arguments
    execute(train, "stopped")


def torchrun(options: list[str], arguments: list[str]) -> None:
    """Turns this process into torchrun. It forks the processes of the run in place of starting programs."""

    def launch(config: LaunchConfig, entrypoint: str) -> Callable[..., object]:
        return elastic_launch(config, lambda unbuffered, script, *rest: started(*rest))

    setattr(launcher, "elastic_launch", launch)  # noqa: B010 (mypy takes functions for constants)
    launcher.main([*options, "--start-method=fork", __file__, *arguments])
