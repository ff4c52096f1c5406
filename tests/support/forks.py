"""Programs of this project as forks of one process, `fork_server`, so that they pay for the imports once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

__all__ = ["EndedTogether", "Forks", "Program", "fork_server"]

ROOT = Path(__file__).resolve().parents[2]


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    status: int  # negative for a signal
    stdout: str
    stderr: str


class EndedTogether(NamedTuple):
    """How processes that train together ended, and what they printed."""

    statuses: list[int]
    stdout: str
    stderr: str


class Forks:
    """Asks the server for forks. A request waits for the end of the one before, except `codec`."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def ask(self, **request: Any) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def run(
        self,
        output: Path,
        command: str,
        *arguments: str,
        kill: str | None = None,
        report: bool = False,
        **environment: str,
    ) -> Ended:
        """Runs `train` or `ablate` to its end. See `fork_server` for the arguments."""
        settings = {"output": str(output), "kill": kill, "report": report, "environment": environment}
        status = self.ask(command=command, arguments=arguments, **settings)
        return Ended(status, *_printed(output))

    def together(self, output: Path, launcher: int | list[str], *overrides: str, kill: str = "none") -> EndedTogether:
        """Trains a tiny run in several processes. See `torch_processes` for the arguments."""
        arguments = [str(output), kill, *overrides]
        statuses = self.ask(command="together", output=str(output), launcher=launcher, arguments=arguments)
        return EndedTogether(statuses, *_printed(output))

    def codec(self, *arguments: str) -> "Program":
        """Starts `codec` in the working folder of this process."""
        return Program(self, arguments)


def _printed(output: Path) -> list[str]:
    return [(output / name).read_text() for name in ("output.txt", "errors.txt")]


class Program:
    """The program `codec` with pipes for its standard streams; has what tests need of `subprocess.Popen`."""

    def __init__(self, forks: Forks, arguments: tuple[str, ...]) -> None:
        self._forks = forks
        self.returncode: int | None = None
        with TemporaryDirectory() as folder:
            paths = [f"{folder}/{name}" for name in ("stdin", "stdout", "stderr")]
            for path in paths:
                os.mkfifo(path)
            self.pid: int = forks.ask(command="codec", arguments=arguments, pipes=paths, folder=os.getcwd())
            # Each waits until the fork has opened its end.
            self.stdin = os.fdopen(os.open(paths[0], os.O_WRONLY), "wb")
            self.stdout, self.stderr = (os.fdopen(os.open(path, os.O_RDONLY), "rb") for path in paths[1:])

    def poll(self, wait: bool = False) -> int | None:
        if self.returncode is None:
            self.returncode = self._forks.ask(command="status", pid=self.pid, wait=wait)[0]
        return self.returncode

    def wait(self) -> int:
        status = self.poll(wait=True)
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        if self.returncode is None:  # `poll` has not taken the number away from it
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, data: bytes = b"") -> tuple[bytes, bytes]:
        """Writes the data, which must fit in a pipe, closes the input, and reads the outputs to their ends."""
        self.stdin.write(data)
        self.stdin.close()
        read = self.stdout.read(), self.stderr.read()
        self.close()
        self.wait()
        return read

    def close(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()


@contextmanager
def fork_server() -> Iterator[Forks]:
    """A server that ends with the block."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
        cwd=ROOT,
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with server:
        yield Forks(server)
    assert server.returncode == 0
