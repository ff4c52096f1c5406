"""Runs an operation on one file or on all files of a folder."""

import sys
from collections.abc import Callable
from pathlib import Path

from codec.coding import CodingResult
from codec.commands.messages import print_error, print_notes
from codec.commands.standard_streams import STANDARD_STREAM

__all__ = ["process_files"]

Operation = Callable[[Path, Path], CodingResult]


def process_files(
    source: Path, target: Path, is_raw: bool, operation: Operation, suffixes: frozenset[str], new_suffix: str
) -> int:
    """Applies `operation` to a file, or to the files of a folder that have one of the suffixes.

    The files of a folder get `new_suffix` and the same subfolders below `target`. A file that fails is reported, and
    the others are processed.

    Args:
        is_raw: Whether input or output has raw samples, which is not possible for folders.

    Returns:
        The exit status.
    """
    if not source.is_dir():
        if source != STANDARD_STREAM and not source.is_file():
            raise ValueError(f"there is no file {source}")
        if STANDARD_STREAM not in (source, target) and target.exists() and source.samefile(target):
            raise ValueError(f"input and output are the same file, {source}: choose another output")
        _report(target, operation(source, target))
        return 0
    if target == STANDARD_STREAM or is_raw:
        raise ValueError(f"{source} is a folder, but pipes and raw samples need a single file")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{source} is a folder, so the output must be a folder, but {target} is a file")
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not paths:
        raise ValueError(f"no file in {source} has the suffix {', '.join(sorted(suffixes))}")
    failed = _process_all(paths, source, target, operation, new_suffix)
    print(f"{len(paths) - failed} of {len(paths)} files done")
    return 1 if failed else 0


def _process_all(paths: list[Path], source: Path, target: Path, operation: Operation, new_suffix: str) -> int:
    """Returns the number of files that failed."""
    from rich.console import Console  # imported here, because only folders need it
    from rich.progress import Progress

    console = Console(stderr=True)
    sources: dict[Path, Path] = {}  # by output
    failed = 0
    bar = Progress(console=console, disable=not console.is_terminal, redirect_stdout=sys.stdout.isatty())
    with bar as progress:
        for path in progress.track(paths, description=source.name):
            output = (target / path.relative_to(source)).with_suffix(new_suffix)
            try:
                if output in sources:
                    raise ValueError(f"{path} and {sources[output]} have the same output, {output}: rename one of them")
                sources[output] = path
                output.parent.mkdir(parents=True, exist_ok=True)
                _report(output, operation(path, output))
            except (ValueError, OSError) as error:
                print_error(error)
                failed += 1
    return failed


def _report(target: Path, result: CodingResult) -> None:
    details = "".join(f"; {detail}" for detail in result.details)
    stream = sys.stderr if target == STANDARD_STREAM else sys.stdout
    size = f"{result.kbps:.2f} kbps ({result.encoded_bytes} bytes)"
    print(f"{target}: {result.seconds:.2f} s, {size}{details}", file=stream)
    print_notes(target, result.notes)
