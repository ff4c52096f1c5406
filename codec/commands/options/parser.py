"""The argument parser: one line for wrong usage, with the nearest known word."""

import argparse
import difflib
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any, NoReturn

__all__ = ["Parser", "nearest"]


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the known word nearest to a mistyped one; empty if none is near."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line. Options and inputs may be mixed in any order."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter} | settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """As in the base class, which ignores a full disk and a closed pipe."""
        (file or sys.stderr).write(message)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As in the base class, which leaves inputs after an option over."""
        for word in takewhile(lambda word: word != "--", args or ()):
            if word.startswith("-") and word not in self._option_string_actions and os.path.isfile(word):
                self.error(f"{word} is taken for an option: write ./{word}")
        found, rest = super().parse_known_args(args, namespace)
        for word in rest:
            if word.startswith("-") and word != "-":
                known = [option for option in self._option_string_actions if option.startswith("--")]
                self.error(f"there is no option {word}{nearest(word.partition('=')[0], known)}")
        lists = [action for action in self._actions if not action.option_strings and action.nargs == "+"]
        if rest and not lists:
            self.error(f"unexpected argument {rest[0]}")
        for word in rest:
            getattr(found, lists[0].dest).append(self._get_value(lists[0], word))
        return found, []

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            kind = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            hint = nearest(str(value), known) or f", expected one of {', '.join(known)}"
            raise argparse.ArgumentError(None if kind == "command" else action, f"there is no {kind} {value}{hint}")
