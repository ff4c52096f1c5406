"""Trains a tiny run in processes that train together, and saves the final state of each process.

process_worker.py OUT KILL [override ...]: one process, started by torchrun or alone. KILL is `none` or
`RANK@STEP@SIGNAL`: this process sends itself the signal at this step, the first time it gets there.

process_worker.py serve: reads one JSON list of arguments per line from standard input, preceded by the number of
processes. Forks these processes, so that several runs pay for the imports once; their output goes to stdout.txt and
stderr.txt in OUT. Writes the exit status of each, negative for a signal, as one JSON list.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import torch
import torch._dynamo  # the first optimizer of a run imports it, which takes two seconds

from codec.training import Trainer
from scripts.command_line import execute
from scripts.composition import check_run, open_run
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


def serve() -> None:
    """Answers requests until standard input ends."""
    # Loads Hydra's plugins and parser, and what checks settings. Otherwise every run would do it again.
    check_run(composed("train", *TINY, "name=unused"))
    for line in sys.stdin:
        count, *arguments = json.loads(line)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        children = []
        for rank in range(count):
            child = os.fork()
            if not child:
                become(rank, count, port, arguments)
                execute(train, "stopped")
                return
            children.append(child)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)


def become(rank: int, count: int, port: int, arguments: list[str]) -> None:
    """Turns this process into one of a run, with the environment that torchrun sets."""
    signal.alarm(300)  # ends it if the others are gone
    sys.argv[1:] = arguments
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    for descriptor, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        os.dup2(os.open(Path(arguments[0]) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        execute(train, "stopped")
