"""`codec completion`."""

import argparse
from collections.abc import Iterator

import shtab

from codec.commands.options.files import file_path
from codec.commands.options.program import make_parser

__all__ = ["run"]

_FILES = {"inputs", "output", "model"}  # arguments that are files, beside those of type `file_path`


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    parser = make_parser()
    for action in _actions(parser):
        if action.type is file_path or action.dest in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, options.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
