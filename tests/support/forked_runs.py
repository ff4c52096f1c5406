"""Runs scripts.train in forks of one process, so that several runs pay for the imports once, and kills them.

Reads one JSON request per line from standard input: {"runs": FOLDER, "overrides": [...], "kill": PLACE or null}. PLACE
is one of `PLACES`, or `step N exists`, at which the parent kills the run as soon as it sees that checkpoint. Writes the
exit status of each run, negative for a signal, as one line.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from codec.training.checkpoint import store
from codec.training.logging import live_report
from scripts.train import main

PLACES = {
    "second backward": (torch.autograd, "backward", 2),
    "checkpoint half written": (store, "write_checkpoint", 1),
    "checkpoint renamed": (store, "_flush_to_disk", 2),  # first the file, then its folder
}


def die_in(place: str) -> None:
    """Replaces a function by one that kills this process at the end of its n-th call."""
    owner, name, calls = PLACES[place]
    original: Callable[..., Any] = getattr(owner, name)
    left = calls

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        result = original(*args, **kwargs)
        left -= 1
        if not left:
            if name == "write_checkpoint":
                os.truncate(args[0], os.path.getsize(args[0]) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, call)


def run(request: dict[str, Any]) -> None:
    """Turns this process into a run. Its output goes to files, which no data loader of a killed run keeps open."""
    for descriptor, name in ((1, "output.txt"), (2, "errors.txt")):
        os.dup2(os.open(Path(request["runs"]) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    if request["kill"] in PLACES:
        die_in(request["kill"])
    setattr(live_report, "write_report", lambda folder, running: None)  # noqa: B010 (drawing takes longer than a run)
    sys.argv = ["train", *request["overrides"], f"runs_folder={request['runs']}"]
    main()


def exit_status(child: int, request: dict[str, Any]) -> int:
    """Waits for a run, and kills it if the request says so."""
    kill = request["kill"]
    if kill and kill not in PLACES:
        path = Path(request["runs"]) / "tiny" / "checkpoints" / f"step_{int(kill.split()[1]):07d}.pt"
        while not path.exists() and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)  # a child that has ended is a zombie until waitpid, so this does not fail
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve() -> None:
    """Answers requests until standard input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            run(request)
            return
        print(exit_status(child, request), flush=True)


if __name__ == "__main__":
    serve()
