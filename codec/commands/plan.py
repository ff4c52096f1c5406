"""From inputs and -o to pairs of input and output. Everything that can go wrong with names is found before any work."""

import difflib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from codec.audio import AUDIO_SUFFIXES, FoundFiles, Skipped, find_audio, find_files, readable
from codec.coding.targets import ENCODED_SUFFIX, check_audio_target, check_encoded_target
from codec.commands.messages import missing
from codec.commands.standard_streams import STANDARD_STREAM, is_stream

__all__ = ["DECODE", "ENCODE", "Direction", "Plan", "Task", "plan"]


class Task(NamedTuple):
    """One file to encode or decode."""

    source: Path
    target: Path


class Plan(NamedTuple):
    """What a command will do."""

    tasks: list[Task]
    skipped: list[Skipped]  # files of the input folders that are not used


class Direction(NamedTuple):
    """What differs between encoding and decoding."""

    find: Callable[[Path], FoundFiles]
    content: str  # of the inputs, for messages
    suffix: str  # of outputs without a name
    output_suffixes: frozenset[str]
    check_target: Callable[[Path], None]


_ENCODED = frozenset({ENCODED_SUFFIX})
ENCODE = Direction(find_audio, "audio", ENCODED_SUFFIX, _ENCODED, check_encoded_target)
DECODE = Direction(
    lambda root: find_files(root, _ENCODED), "encoded audio (.ecdc)", ".wav", AUDIO_SUFFIXES, check_audio_target
)


def plan(inputs: Sequence[Path], output: str | None, direction: Direction, overwrite: bool) -> Plan:
    """Pairs every input with its output.

    A folder stands for the files below it. Without an output, a file's output lies beside it, and that of a pipe is
    standard output. If the output is a folder, or there are several files, it keeps the subfolders of the inputs.

    Args:
        inputs: Files, folders, or `-` alone.
        output: A file, a folder, or `-`; None for the default.
        direction: `ENCODE` or `DECODE`.
        overwrite: Whether outputs may exist.

    Raises:
        ValueError: An input is missing, two inputs have one output, or an output is an input, has the suffix of the
            other kind, or exists.
    """
    if output == "":
        raise ValueError("-o expects a file, a folder or -, got an empty text")
    for path in inputs:
        _check_input(path, inputs, output, direction)
    names: dict[Path, Path] = {}  # name of the output below a folder, by input
    skipped: list[Skipped] = []
    for path in inputs:
        if is_stream(path) or not path.is_dir():
            names[path] = Path(path.name)
            continue
        found = direction.find(path)
        if not found.files:
            raise ValueError(f"there is no {direction.content} in {readable(path)}{_first(found.skipped)}")
        names |= {file: file.relative_to(path) for file in found.files}
        skipped += found.skipped
    streams = [path for path in names if is_stream(path)]
    if streams and len(names) > 1:
        raise ValueError(f"{readable(streams[0])} is a pipe: it must be the only input")
    tasks = _tasks(names, output, direction, is_single=len(inputs) == 1 and not inputs[0].is_dir())
    _check_outputs(tasks, direction, overwrite)
    return Plan(tasks, skipped)


def _tasks(names: dict[Path, Path], output: str | None, direction: Direction, is_single: bool) -> list[Task]:
    if output is None:
        beside = {path: STANDARD_STREAM if is_stream(path) else path.with_suffix(direction.suffix) for path in names}
        return [Task(path, target) for path, target in beside.items()]
    target = Path(output)
    if is_single and (output == "-" or not (target.is_dir() or output.endswith(os.sep))):
        return [Task(next(iter(names)), target)]
    if output == "-":
        raise ValueError("-o - is standard output, which takes one file: several files need a folder")
    if is_stream(target) or (target.exists() and not target.is_dir()):
        raise ValueError(f"several files need a folder as output, but {readable(target)} is a file")
    if not target.exists() and target.suffix.lower() in AUDIO_SUFFIXES | _ENCODED:
        raise ValueError(f"several files need a folder as output, but {readable(target)} is the name of a file")
    return [Task(path, target / name.with_suffix(direction.suffix)) for path, name in names.items()]


def _check_input(path: Path, inputs: Sequence[Path], output: str | None, direction: Direction) -> None:
    suffix = path.suffix.lower()
    if len(inputs) > 1 and suffix in direction.output_suffixes:
        hint = "" if output else f": -o {readable(path)} makes it the output"
        raise ValueError(f"{readable(path)} is no {direction.content}, but it is given as an input{hint}")
    if path == STANDARD_STREAM or path.exists():
        return
    hint = ""
    if path.parent.is_dir() and not path.is_symlink():
        close = difflib.get_close_matches(path.name, [each.name for each in path.parent.iterdir()], 1, 0.85)
        hint = f": did you mean {readable(path.parent / close[0])}?" if close else ""
    raise ValueError(f"{missing(path)}{hint}")


def _check_outputs(tasks: list[Task], direction: Direction, overwrite: bool) -> None:
    sources = {identity: task.source for task in tasks if (identity := _identity(task.source))}
    by_target: dict[str, Path] = {}
    existing: list[Path] = []
    for source, target in tasks:
        if target == STANDARD_STREAM or is_stream(target):
            continue
        direction.check_target(target)
        key = os.path.join(os.path.realpath(target.parent), target.name)
        if key in by_target:
            raise ValueError(f"{readable(by_target[key])} and {readable(source)} have the same output, "
                             f"{readable(target)}: rename one of them, or encode them apart")  # fmt: skip
        by_target[key] = source
        if target.is_dir():
            raise ValueError(f"cannot write {readable(target)}: it is a folder")
        if (identity := _identity(target)) is None:
            continue
        if identity in sources:
            raise ValueError(f"the output {readable(target)} is also the input {readable(sources[identity])}: "
                             "choose another output with -o")  # fmt: skip
        existing.append(target)
    if existing and not overwrite:
        others = len(existing) - 1
        plural = "s" if others > 1 else ""
        which = readable(existing[0]) + (f" and {others} other output{plural} exist" if others else " exists")
        raise ValueError(f"{which}: -f replaces existing files, -o names another output")


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None if there is none, or for pipes and devices."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _first(skipped: list[Skipped]) -> str:
    return f" ({readable(skipped[0].path)}: {skipped[0].reason})" if skipped else ""
