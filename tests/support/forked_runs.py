"""Runs scripts.train in forks of one process, so that several runs pay for the imports once, and kills them.

Reads one JSON request per line from standard input: {"runs": FOLDER, "overrides": [...], "kill": PLACE or null}. PLACE
is one of `PLACES`, or
- `step N exists`: the parent kills the run as soon as it sees that checkpoint;
- the name of a signal, which the run sends to all its processes in a backward pass, as a terminal or SLURM does;
- `SIGINT twice`: in a backward pass, and while the checkpoint is written;
- `terminal closed`: the run has a terminal, which the parent closes as soon as it sees the checkpoint of step 3.
Writes the exit status of each run, negative for a signal, as one line.
"""

import fcntl
import json
import os
import select
import signal
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo

from codec.training.checkpoint import store
from codec.training.logging import live_report
from scripts.composition import check_run
from scripts.train import main
from tiny_command import TINY, composed

PLACES = {
    "second backward": (torch.autograd, "backward", 2),
    "checkpoint half written": (store, "write_checkpoint", 1),
    "checkpoint renamed": (store, "_flush_to_disk", 2),  # first the file, then its folder
}


def send(number: int) -> None:
    """Sends a signal to this process and its children from another process: loader workers end at their parent's.

    It waits until `os.fork` has returned here, because Python ignores what a handler raises in the callbacks of a fork.
    """
    forked, tell = os.pipe()
    child = os.fork()
    if not child:
        os.read(forked, 1)
        signal.signal(number, signal.SIG_IGN)
        os.killpg(0, number)
        os._exit(0)
    os.write(tell, b".")
    os.waitpid(child, 0)


def act_in(owner: Any, name: str, calls: int, act: Callable[[], None]) -> None:
    """Replaces a function by one that calls `act` at the end of its n-th call."""
    original: Callable[..., Any] = getattr(owner, name)
    left = calls

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        result = original(*args, **kwargs)
        left -= 1
        if not left:
            if name == "write_checkpoint":
                os.truncate(args[0], os.path.getsize(args[0]) // 2)
            act()
        return result

    setattr(owner, name, call)


def run(request: dict[str, Any], terminal: int | None) -> None:
    """Turns this process into a run, in a session of its own.

    Its output goes to files, which no data loader of a killed run keeps open, or to the terminal. The files are new:
    what is left of an earlier run in the same folder writes to the old ones.
    """
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
    for descriptor, name in ((1, "output.txt"), (2, "errors.txt")):
        path = Path(request["runs"]) / name
        path.unlink(missing_ok=True)
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), descriptor)
    kill = request["kill"] or ""
    if terminal is not None:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        for descriptor in (1, 2):
            os.dup2(terminal, descriptor)
    elif kill in PLACES:
        act_in(*PLACES[kill], lambda: os.kill(os.getpid(), signal.SIGKILL))
    elif kill.startswith("SIG"):

        def interrupt() -> None:
            send(signal.Signals[kill.split()[0]])
            if kill.endswith("twice"):
                act_in(store, "write_checkpoint", 1, lambda: send(signal.SIGINT))

        act_in(torch.autograd, "backward", 2, interrupt)
    setattr(live_report, "write_report", lambda folder, running: None)  # noqa: B010 (drawing takes longer than a run)
    sys.argv = ["train", *request["overrides"], f"runs_folder={request['runs']}"]
    main()


def exit_status(child: int, request: dict[str, Any], terminal: int | None) -> int:
    """Waits for a run, and kills it or closes its terminal if the request says so."""
    kill = request["kill"] or ""
    if terminal is not None or kill.startswith("step"):
        step = 3 if terminal is not None else int(kill.split()[1])
        path = Path(request["runs"]) / "tiny" / "checkpoints" / f"step_{step:07d}.pt"
        while not path.exists() and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if terminal is not None and select.select([terminal], [], [], 0)[0]:
                os.read(terminal, 4096)
            time.sleep(0.002)
        if terminal is None:
            os.kill(child, signal.SIGKILL)  # a child that has ended is a zombie until waitpid, so this does not fail
        else:
            os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve() -> None:
    """Answers requests until standard input ends."""
    # Loads Hydra's plugins and parser, and what checks settings. Otherwise every run would do it again.
    check_run(composed("train", *TINY, "name=unused"))
    for line in sys.stdin:
        request = json.loads(line)
        controller, terminal = os.openpty() if request["kill"] == "terminal closed" else (None, None)
        child = os.fork()
        if not child:
            if controller is not None:
                os.close(controller)
            run(request, terminal)
            return
        if terminal is not None:
            os.close(terminal)
        print(exit_status(child, request, controller), flush=True)


if __name__ == "__main__":
    serve()
