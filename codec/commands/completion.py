"""`codec completion`."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["add"]

_SHELLS = ("bash", "zsh")
_FILES = {"inputs", "output", "model"}  # arguments that are files, beside those of type Path


def add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", make_parser: Callable[[], argparse.ArgumentParser]
) -> None:
    """Declares the command.

    Args:
        make_parser: Makes the parser of the whole program.
    """
    command = commands.add_parser(
        "completion",
        help="completion of commands and options in a shell",
        description="Prints a script that completes commands, options and files.",
        epilog="examples:\n  codec completion bash > ~/.local/share/bash-completion/completions/codec\n"
        "  codec completion zsh > ~/.zfunc/_codec        with ~/.zfunc in fpath\n",
    )
    command.add_argument("shell", metavar="SHELL", choices=_SHELLS, help=f"one of {', '.join(_SHELLS)}")
    command.set_defaults(run=lambda options: _print_script(options.shell, make_parser()))


def _print_script(shell: str, parser: argparse.ArgumentParser) -> int:
    import shtab  # imported here, because only this command needs it

    for action in _actions(parser):
        if action.type is Path or action.dest in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
