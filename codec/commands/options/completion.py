"""The options of `codec completion`."""

import argparse

__all__ = ["add"]

_EXAMPLES = """examples:
  codec completion bash > ~/.local/share/bash-completion/completions/codec
  codec completion zsh > ~/.zfunc/_codec        with ~/.zfunc in fpath
"""
_SHELLS = ("bash", "zsh")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    command = commands.add_parser(
        "completion",
        help="completion of commands and options in a shell",
        description="Prints a script that completes commands, options and files.",
        epilog=_EXAMPLES,
    )
    command.add_argument("shell", metavar="SHELL", choices=_SHELLS, help=f"one of {', '.join(_SHELLS)}")
    command.set_defaults(module="codec.commands.completion")
