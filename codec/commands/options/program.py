"""The parser of the program `codec`, with all commands."""

import argparse
from importlib.metadata import version

from codec.commands.options import (
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
from codec.commands.options.parser import Parser

__all__ = ["make_parser"]

_EXAMPLES = """examples:
  codec encode in.wav                  audio to in.ecdc, with the bundled model
  codec decode in.ecdc -o back.wav     and back
  codec info in.ecdc                   what is in a file
  codec COMMAND --help                 all options of a command
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser. `module` of what it returns names the module whose `run` executes the command."""
    description = "Encodes and decodes audio with a neural codec."
    parser: argparse.ArgumentParser = Parser(prog="codec", description=description, epilog=_EXAMPLES)
    parser.add_argument("--version", action="version", version=f"codec {version('neural-codec-trainer')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for command in (encode, decode, info, tokenize, detokenize, evaluate, import_model, export, train_entropy,
                    completion):  # fmt: skip
        command.add(commands)
    return parser
