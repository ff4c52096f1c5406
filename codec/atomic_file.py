"""Atomic file writes: after an error or a kill, the previous file is still complete."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE

__all__ = ["atomic_write"]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`. When the block ends, the temporary file replaces `path`.

    If the block raises, the temporary file is removed and `path` is unchanged. A killed process leaves `path` unchanged
    and NAME.partial beside it; the next write overwrites that file. Symbolic links are followed. A replaced file keeps
    its permissions; a new file gets those of any new file.

    Raises:
        OSError: `path` exists and is not a regular file (a folder, a device), or its folder does not exist.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise OSError(f"cannot write {path}: it exists and is not a regular file")
    if not target.parent.is_dir():
        raise OSError(f"cannot write {path}: there is no folder {target.parent}")
    temporary = target.with_name(target.name + ".partial")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = (target if target.exists() else temporary).stat().st_mode
        yield temporary
        temporary.chmod(S_IMODE(mode))  # safetensors makes files that only their owner can read
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
