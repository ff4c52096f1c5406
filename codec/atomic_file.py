"""Files that are whole or not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends, and goes when it fails.

    Links are followed. A process that is killed leaves `path` as it was and NAME.partial beside it, which the next
    attempt overwrites.

    Raises:
        OSError: `path` is there and not a plain file (a folder, a device), or its folder is missing.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise OSError(f"cannot write {path}: it is there and not a plain file")
    if not target.parent.is_dir():
        raise OSError(f"cannot write {path}: there is no folder {target.parent}")
    beside = target.with_name(target.name + ".partial")
    try:
        yield beside
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
