"""The command `codec`; its commands stand in `codec.commands`.

Exit status: 0 done, 1 bad input (one line on stderr per file that failed), 2 wrong usage, 130 interrupted, 141 when
whoever reads the output has gone. What was done and how goes to stdout, or to stderr if the data goes there.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from codec.commands import coding, evaluate, export, import_model, info, train_entropy
from codec.commands.messages import complain

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Without the program's name; those of the process if None.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does. What is left in the buffer must not fail again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    # Every error of ours about input is a ValueError whose message is written for the user.
    except (ValueError, OSError) as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="codec", description="Encodes and decodes audio with a trained model.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (coding, info, evaluate, import_model, export, train_entropy):
        command.add(commands)
    return parser
