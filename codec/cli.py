"""The program `codec`. `codec.commands` has its commands.

Exit status: 0 success; 1 invalid input, with one line on stderr for each file that failed; 2 wrong usage; 130
interrupted; 141 the reader of the output has closed the pipe. Reports go to stdout, or to stderr if stdout gets data.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from codec.commands import decode, detokenize, encode, evaluate, export, import_model, info, tokenize, train_entropy
from codec.commands.messages import print_error

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program.

    Args:
        arguments: Without the name of the program; None for those of the process.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except BrokenPipeError:
        # The reader of the output has exited, as `head` does. The rest of the buffer must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    # Invalid input raises a ValueError with a message for the user.
    except (ValueError, OSError) as error:
        print_error(error)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="codec", description="Encodes and decodes audio with a neural codec.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (encode, decode, info, tokenize, detokenize, evaluate, import_model, export, train_entropy):
        command.add(commands)
    return parser
