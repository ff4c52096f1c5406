"""Files that are whole or not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE

__all__ = ["replacing"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends, and goes when it fails.

    Links are followed. Whoever could read what was at `path` can read what takes its place, and where nothing was, who
    can read any new file there. A process that is killed leaves `path` as it was and NAME.partial beside it, which the
    next attempt overwrites.

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
        beside.unlink(missing_ok=True)
        beside.touch()
        mode = (target if target.exists() else beside).stat().st_mode
        yield beside
        beside.chmod(S_IMODE(mode))  # safetensors makes files that only their owner can read
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
