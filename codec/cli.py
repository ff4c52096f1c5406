"""The program `codec`. `codec.commands` has its commands.

Exit status: 0 success; 1 invalid input, with one line on stderr for each file that failed; 2 wrong usage; 130
interrupted; 141 the reader of the output has closed the pipe. Reports go to stdout, or to stderr if stdout gets data.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program.

    Args:
        arguments: Without the name of the program; None for those of the process, which `main` then owns: SIGTERM
            removes unfinished files as Ctrl-C does.

    Returns:
        The exit status.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    if arguments is None:
        signal.signal(signal.SIGTERM, _terminate)
        with _ending_at_interrupt():
            command, options = _parse(None)
    else:
        command, options = _parse(arguments)
    try:
        status: int = command.run(options)
        _flush_output()
    except BrokenPipeError:
        _drop_output()
        return 128 + signal.SIGPIPE
    # Invalid input raises a ValueError with a message for the user.
    except (ValueError, OSError) as error:
        from codec.commands.messages import print_error

        print_error(error)
        _drop_output()
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return status


def _parse(arguments: Sequence[str] | None) -> tuple[ModuleType, argparse.Namespace]:
    """The module of the command and its options. Only the module imports torch: --help and wrong usage end before."""
    from codec.commands.options.program import make_parser  # imported here, because it can be interrupted

    options = make_parser().parse_args(arguments)
    return import_module(options.module), options


@contextmanager
def _ending_at_interrupt() -> Iterator[None]:
    """An interrupt ends the process at once. A `KeyboardInterrupt` could be swallowed by what is being imported."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else it is ignored, in the background of a shell
        signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(number: int, frame: object) -> NoReturn:
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


def _flush_output() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        error.filename = "stdout"
        raise


def _drop_output() -> None:
    """What stdout still holds must not fail again at exit: its reader has exited, or the disk is full."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
