"""Runs programs of this project in forks of one process, so that they pay for the imports once, and kills them.

Reads one JSON request per line from standard input, and writes one line of JSON for each. "arguments" are those of the
program. "command" is one of these.

`train` and `ablate`: the answer is the exit status, negative for a signal.
- "output": a folder for output.txt and errors.txt;
- "environment": variables of the environment that differ;
- "report": whether reports are drawn, which takes longer than a run;
- "kill": null, one of `PLACES`, or
  - `SIGNAL when PATH exists`: the parent sends the signal as soon as it sees that file;
  - the name of a signal, which the run sends to all its processes in a backward pass, as a terminal or SLURM does;
  - `SIGINT twice`: in a backward pass, and while the checkpoint is written;
  - `terminal closed when PATH exists`: the run has a terminal, which the parent closes as soon as it sees that file.

`together`: processes that train together, see `torch_processes`. The answer is the list of their exit statuses.

`codec`: the answer is the number of its process, which goes on.
- "pipes": three named pipes, which it opens as its standard streams; "folder": its working folder.

`status`: a list of the exit status of process "pid", or of null if it still runs and "wait" is false.
"""

import fcntl
import gc
import json
import os
import runpy
import select
import signal
import sys
import termios
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch._dynamo  # the first optimizer of a run imports it, which takes two seconds

import torch_processes
from codec.commands import decode, encode, info  # noqa: F401 (for `codec`)
from codec.training.checkpoint import store
from codec.training.logging import live_report
from config_files import combine_once
from scripts.ablation import run as ablation_run
from scripts.ablation.grid import grid_runs, run_config
from scripts.command_line import compose
from scripts.composition import check_run
from tiny_command import TINY, TINY_SEANET, composed, listed

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


class Forked:
    """Takes the place of `subprocess.Popen` in `start_process`: forks this process in place of starting a program."""

    def __init__(self, command: list[str], *, env: dict[str, str], **_: object) -> None:
        self.returncode = 0
        read_end, self._write_end = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._child = os.fork()
        if not self._child:
            os.setpgid(0, 0)
            os.close(self._write_end)
            sys.stdin = os.fdopen(read_end)
            os.environ.clear()
            os.environ.update(env)
            os._exit(status_of(ablation_run.main))
        os.close(read_end)

    def communicate(self, text: str) -> None:
        with os.fdopen(self._write_end, "w") as pipe:
            pipe.write(text)
        self.wait()

    def terminate(self) -> None:
        os.kill(self._child, signal.SIGTERM)

    def wait(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])


def status_of(main: Callable[[], None]) -> int:
    """The exit status of a program."""
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def run(request: dict[str, Any], terminal: int | None) -> None:
    """Turns this process into a command, in a session of its own.

    Its output goes to files, which no data loader of a killed run keeps open, or to the terminal. The files are new:
    what is left of an earlier run in the same folder writes to the old ones.
    """
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
    output = Path(request["output"])
    for path in (output / "output.txt", output / "errors.txt"):
        path.unlink(missing_ok=True)
    torch_processes.redirect(output)
    kill = request["kill"] or ""
    if terminal is not None:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        for descriptor in (1, 2):
            os.dup2(terminal, descriptor)
    elif kill in PLACES:
        act_in(*PLACES[kill], lambda: os.kill(os.getpid(), signal.SIGKILL))
    elif kill.startswith("SIG") and " when " not in kill:

        def interrupt() -> None:
            send(signal.Signals[kill.split()[0]])
            if kill.endswith("twice"):
                act_in(store, "write_checkpoint", 1, lambda: send(signal.SIGINT))

        act_in(torch.autograd, "backward", 2, interrupt)
    os.environ.update(request["environment"])
    if not request["report"]:
        setattr(live_report, "write_report", lambda folder, running: None)  # noqa: B010 (mypy takes it for a constant)
    setattr(ablation_run, "subprocess", SimpleNamespace(Popen=Forked, PIPE=None))  # noqa: B010
    module = f"scripts.{request['command']}"
    sys.modules.pop(module, None)  # not imported yet, as after `python -m`
    sys.argv = [module, *request["arguments"]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def exit_status(child: int, request: dict[str, Any], terminal: int | None) -> int:
    """Waits for a command, and sends it a signal or closes its terminal if the request says so."""
    how, when, rest = (request["kill"] or "").partition(" when ")
    if when:
        path = Path(rest.removesuffix(" exists"))
        while not path.exists() and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if terminal is not None and select.select([terminal], [], [], 0)[0]:
                os.read(terminal, 4096)
            time.sleep(0.002)
        if terminal is None:
            os.kill(child, signal.Signals[how])  # a child that has ended is a zombie until waitpid: this does not fail
        else:
            os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def command(request: dict[str, Any]) -> int | None:
    """Runs a command to its end; returns its exit status, or None in the fork."""
    controller, terminal = os.openpty() if "terminal" in (request["kill"] or "") else (None, None)
    child = os.fork()
    if not child:
        if controller is not None:
            os.close(controller)
        run(request, terminal)
        return None
    if terminal is not None:
        os.close(terminal)
    return exit_status(child, request, controller)


def start_codec(request: dict[str, Any]) -> int | None:
    """Starts the program; returns the number of its process, or None in the fork."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.chdir(request["folder"])
    for descriptor, path in enumerate(request["pipes"]):
        os.dup2(os.open(path, os.O_WRONLY if descriptor else os.O_RDONLY), descriptor)
    sys.stdin = os.fdopen(0, closefd=False)  # the other one may have read more of the requests
    sys.argv = ["codec", *request["arguments"]]
    runpy.run_module("codec", run_name="__main__", alter_sys=True)
    return None


def status(request: dict[str, Any]) -> list[int | None]:
    child, code = os.waitpid(request["pid"], 0 if request["wait"] else os.WNOHANG)
    return [os.waitstatus_to_exitcode(code) if child else None]


COMMANDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "train": command,
    "ablate": command,
    "together": torch_processes.train_together,
    "codec": start_codec,
    "status": status,
}


def prepare() -> None:
    """Loads Hydra's plugins and parser, combines files of configs/, and loads what checks settings.

    Otherwise every run would do it again. Garbage collection in the runs leaves alone what is loaded now, so its memory
    is not copied.
    """
    combine_once()
    sys.argv = ["train", *TINY, "name=unused"]
    check_run(*compose("train"))
    sys.argv = ["ablate", "start=from_scratch", "strategies=[weighted_sum,encodec]", f"overrides={listed(TINY_SEANET)}"]
    compose("ablate", lambda cfg: [run_config(cfg, run) for run in grid_runs(cfg).values()])
    composed("train", *TINY, "balancer=encodec")
    gc.collect()
    gc.freeze()


def serve() -> None:
    """Answers requests until standard input ends."""
    prepare()
    for line in sys.stdin:
        request = json.loads(line)
        answer = COMMANDS[request["command"]](request)
        if answer is None:  # in the fork, at its end
            return
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
