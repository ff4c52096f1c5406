"""Atomic file writes: after an error or a kill, the previous file is still complete. New folders are not left empty."""

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from stat import S_IMODE

__all__ = ["atomic_write", "new_folder", "write_files"]

_SUFFIX = ".partial"
_MAX_NAME_BYTES = 255  # of all common file systems
_WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # which reading cannot cause


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`. When the block ends, the temporary file replaces `path`.

    If the block raises, the temporary file is removed and `path` is unchanged. A killed process leaves `path` unchanged
    and NAME.partial beside it (a digest stands for a very long NAME); the next write overwrites that file. Symbolic
    links are followed. A replaced file keeps its permissions; a new file gets those of any new file.

    Raises:
        OSError: `path` exists and is not a regular file (a folder, a device), its folder does not exist, or it cannot
            be written; `filename` is `path`.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise OSError(f"cannot write {path}: it exists and is not a regular file")
    if not target.parent.is_dir():
        raise OSError(f"cannot write {path}: there is no folder {target.parent}")
    name = os.fsencode(target.name)
    is_long = len(name) + len(_SUFFIX) > _MAX_NAME_BYTES
    temporary = target.with_name((hashlib.sha256(name).hexdigest()[:16] if is_long else target.name) + _SUFFIX)
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = (target if target.exists() else temporary).stat().st_mode
        yield temporary
        temporary.chmod(S_IMODE(mode))
        temporary.replace(target)
    except OSError as error:
        failed = None if error.filename is None else os.fspath(error.filename)
        if failed == str(temporary) or (failed is None and error.errno in _WRITE_ERRORS):
            error.filename = str(path)
            del error.filename2  # with None the text of the error would end with "-> None"
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Makes a folder, and those above it. New folders that the block leaves empty are removed again.

    Raises:
        OSError: The folder cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with suppress(OSError):  # not empty
            for folder in missing:
                folder.rmdir()


def write_files(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Writes files into a folder, which is made; all of them or, after an error, none.

    Returns:
        Their paths.

    Raises:
        OSError: One of them cannot be written.
    """
    with new_folder(folder), ExitStack() as files:
        # The last that is entered is renamed first.
        temporary = {name: files.enter_context(atomic_write(folder / name)) for name in reversed([*contents])}
        for name, content in contents.items():
            temporary[name].write_bytes(content)
    return [folder / name for name in contents]
