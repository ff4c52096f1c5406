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
from contextlib import contextmanager, nullcontext
from importlib import import_module
from types import ModuleType
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program.

    Args:
        arguments: Without the name of the program; None for those of the process, which `main` then owns: SIGTERM and
            SIGHUP remove unfinished files as Ctrl-C does.

    Returns:
        The exit status.
    """
    if arguments is None:
        _open_closed_streams()
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
                signal.signal(number, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    try:
        with _ending_at_interrupt() if arguments is None else nullcontext():
            command, options = _parse(arguments)
        status: int = command.run(options)
        _flush_output()
    except BrokenPipeError:
        _drop_output()
        return 128 + signal.SIGPIPE
    # Invalid input raises a ValueError with a message for the user.
    except (ValueError, OSError) as error:
        _print_error(error)
        _drop_output()
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return status


def _parse(arguments: Sequence[str] | None) -> tuple[ModuleType, argparse.Namespace]:
    """The module of the command and its options. Only the module imports torch: --help and wrong usage end before."""
    from codec.commands.options.program import make_parser  # imported here, because it can be interrupted

    try:
        options = make_parser().parse_args(arguments)
    except SystemExit:
        _flush_output()  # it has the help or the version
        raise
    return import_module(options.module), options


def _print_error(error: ValueError | OSError) -> None:
    """Prints an error as one line on stderr. If stdout cannot be written, no file is named, and torch not imported."""
    if isinstance(error, OSError) and error.filename is None and error.strerror is not None:
        print("codec:", error.strerror, file=sys.stderr)
    else:
        from codec.commands.messages import print_error

        print_error(error)


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


def _open_closed_streams() -> None:
    """Standard streams that the caller has closed, as in `codec info a.wav >&-`, become empty ones."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def _flush_output() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        error.strerror = f"stdout: {error.strerror}"
        raise


def _drop_output() -> None:
    """What stdout still holds must not fail again at exit: its reader has exited, or the disk is full."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
