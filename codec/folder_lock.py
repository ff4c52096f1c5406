"""Locks of folders: two processes must not write to one at the same time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["FolderInUse", "locked"]

_held: set[int] = set()  # descriptors of the locked folders


class FolderInUse(ValueError):
    """Another process has the lock of a folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a folder, which exists. The lock ends with the block, or with the process, however that ends.

    On a file system without locks the block is run without one. Processes that are forked within the block, such as
    workers of a data loader, do not keep the lock when this process is killed.

    Raises:
        FolderInUse: Another process has the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUse(f"another process writes to {folder}") from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _close_in_child() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_in_child)
