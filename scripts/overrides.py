"""Overrides on the command line. Values that Hydra's grammar refuses are quoted, so that any file name works."""

import re
from collections.abc import Sequence
from os.path import expanduser

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError

__all__ = ["TEXT_KEYS", "is_multirun", "parse", "prepare", "swept_keys"]

# Settings whose value is text, whatever it looks like: 1e3 and true are names, and a path may contain commas.
TEXT_KEYS = {"name", "runs_folder", "init_from", "base", "data.root", "data.corpus.train", "data.corpus.held_out"}
_MULTIRUN = {"-m", "--multirun"}
_FLAGS = {
    *("-h", "--help", "--hydra-help", "--version", "--resolve", "-r", "--run", "-sc", "--shell-completion"),
    *("-i", "--info"),
}
_FLAGS_WITH_VALUE = {
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    "--experimental-rerun",
}
_PRINTED_CONFIGS = ("job", "hydra", "all")  # of --cfg
_OVERRIDE = re.compile(r"((?:\+\+|\+|~)?[^\s=]+)=(.*)", re.DOTALL)


def prepare(arguments: Sequence[str]) -> list[str]:
    """The arguments with quotes around values that Hydra would refuse, or would not read as the text they are.

    --multirun comes first, because Hydra takes no overrides on both sides of it.

    Lists, mappings, interpolations, quoted values and the sweeps of --multirun stay as they are. `~` at the start of a
    path becomes the home folder.

    Raises:
        ValueError: An argument is no override and no option, or has several values without --multirun, or an option
            has no value or an unknown one.
    """
    multirun = is_multirun(arguments)
    flags = [argument.startswith("-") for argument in arguments]
    values = [index > 0 and arguments[index - 1] in _FLAGS_WITH_VALUE for index in range(len(arguments))]
    for argument, flag, value in zip(arguments, flags, values, strict=True):
        if flag and not value and argument.partition("=")[0] not in _FLAGS | _FLAGS_WITH_VALUE | _MULTIRUN:
            raise ValueError(
                f"there is no option {argument}: settings are written without dashes, as in data.batch_size=16; "
                "--help lists them"
            )
    _check_flags_with_value(arguments)
    prepared = [
        argument if flag or value else _prepare_one(argument, multirun)
        for argument, flag, value in zip(arguments, flags, values, strict=True)
    ]
    return sorted(prepared, key=lambda argument: argument not in _MULTIRUN)


def is_multirun(arguments: Sequence[str]) -> bool:
    """Whether Hydra is asked for one run per combination of values."""
    return not {*_MULTIRUN, "hydra.mode=MULTIRUN"}.isdisjoint(arguments)


def parse(argument: str) -> Override | None:
    """None for what is no override in Hydra's grammar."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def swept_keys(arguments: Sequence[str]) -> set[str]:
    """Keys of prepared arguments that have several values."""
    found = (parse(argument) for argument in arguments)
    return {override.get_key_element() for override in found if override is not None and override.is_sweep_override()}


def _check_flags_with_value(arguments: Sequence[str]) -> None:
    """Hydra would print a page on the use of all its options."""
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag not in _FLAGS_WITH_VALUE:
            continue
        if not equals:
            value = arguments[index + 1] if index + 1 < len(arguments) else ""
        if flag in ("--cfg", "-c"):
            if value not in _PRINTED_CONFIGS:
                raise ValueError(f"{flag} must be one of {', '.join(_PRINTED_CONFIGS)}, got {value!r}")
        elif not value:
            raise ValueError(f"{flag} needs a value")


def _prepare_one(argument: str, multirun: bool) -> str:
    override = parse(argument)
    match = _OVERRIDE.fullmatch(argument)
    if match is None:
        if override is not None and argument.startswith("~"):  # deletes a setting
            return argument
        raise ValueError(f"expected group=name or path.to.key=value (no spaces around =), got {argument!r}")
    prefix_and_key, value = match.groups()
    key = prefix_and_key.lstrip("+~")
    if parse(f"{prefix_and_key}=0") is None:
        raise ValueError(f"there is no setting {key}: a key has letters, digits, dots and underscores only")
    if override is None:
        return f"{prefix_and_key}={_quoted_parts(key, value, multirun)}"
    if override.is_sweep_override():
        if multirun or not key:
            return argument
        if key not in TEXT_KEYS and "/" not in value:
            raise ValueError(
                f"{key} has several values, {value}: add -m for a run with each, or write '{key}=[{value}]' for a list"
            )
        return f"{prefix_and_key}={_quoted(value)}"
    return f"{prefix_and_key}={_quoted(value)}" if _must_be_text(key, value, override) else argument


def _must_be_text(key: str, value: str, override: Override) -> bool:
    """Whether Hydra would change the text of a setting that is text: 1e3, true, [a], trailing spaces."""
    if key not in TEXT_KEYS or override.value() is None or value[:1] in ("'", '"', ""):
        return False
    return not isinstance(override.value(), str) or ("\\" not in value and override.value() != value)


def _quoted_parts(key: str, value: str, multirun: bool) -> str:
    """A value that Hydra does not parse, quoted; with --multirun each of its parts between commas."""
    if key not in TEXT_KEYS and value[:1] in ("[", "{"):
        raise ValueError(
            f"{key} has a list or mapping that cannot be read, {value}: close all brackets, and quote texts with "
            f"special characters, as in '{key}=[\"a (b)\", c]' or '{key}={{a: 1}}'"
        )
    parts = value.split(",") if multirun else [value]
    return ",".join(part if parse(f"{key}={part}") is not None else _quoted(part) for part in parts)


def _quoted(value: str) -> str:
    """A string of Hydra's grammar with this text."""
    text = expanduser(value) if value.startswith("~") else value
    try:
        OmegaConf.create({"text": text})
    except GrammarParseError:  # ${ that begins no interpolation
        text = text.replace("${", "\\${")
    # Backslashes count only before a quote, also before the closing one.
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", text) + "'"
