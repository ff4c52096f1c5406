"""The program `codec`. `codec.commands` has its commands.

Exit status: 0 success; 1 invalid input, with one line on stderr for each file that failed; 2 wrong usage; 130
interrupted; 141 the reader of the output has closed the pipe. Reports go to stdout, or to stderr if stdout gets data.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from codec.commands import (
    completion,
    decode,
    detokenize,
    encode,
    evaluate,
    export,
    import_model,
    info,
    tokenize,
    train_entropy,
)
from codec.commands.messages import print_error
from codec.commands.parser import Parser

__all__ = ["main"]

_EXAMPLES = """examples:
  codec encode in.wav                  audio to in.ecdc, with the bundled model
  codec decode in.ecdc -o back.wav     and back
  codec info in.ecdc                   what is in a file
  codec COMMAND --help                 all options of a command
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program.

    Args:
        arguments: Without the name of the program; None for those of the process, which `main` then owns: SIGTERM
            removes unfinished files as Ctrl-C does.

    Returns:
        The exit status.
    """
    if arguments is None:
        signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    options = make_parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        _flush_output()
    except BrokenPipeError:
        _drop_output()
        return 128 + signal.SIGPIPE
    # Invalid input raises a ValueError with a message for the user.
    except (ValueError, OSError) as error:
        print_error(error)
        _drop_output()
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return status


def make_parser() -> argparse.ArgumentParser:
    """The parser of the program, with all commands."""
    description = "Encodes and decodes audio with a neural codec."
    parser: argparse.ArgumentParser = Parser(prog="codec", description=description, epilog=_EXAMPLES)
    parser.add_argument("--version", action="version", version=f"codec {version('neural-codec-trainer')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for command in (encode, decode, info, tokenize, detokenize, evaluate, import_model, export, train_entropy):
        command.add(commands)
    completion.add(commands, make_parser)
    return parser


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
