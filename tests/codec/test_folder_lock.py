"""Locks of folders: one holder at a time, until the end of the block or of the process."""

import os
import signal
from pathlib import Path

import pytest

from codec.folder_lock import FolderInUse, locked


def test_a_folder_has_one_holder(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(FolderInUse, match=str(tmp_path)), locked(tmp_path):
            pass
        with pytest.raises(FolderInUse), locked(tmp_path):  # a refusal does not take the lock away
            pass
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_forked_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    """As a worker of a data loader that lives for seconds after its parent was killed."""
    ready, started = os.pipe()
    with locked(tmp_path):
        child = os.fork()
        if not child:
            os.write(started, b"1")
            signal.pause()
        os.read(ready, 1)
        with pytest.raises(FolderInUse), locked(tmp_path):
            pass
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(started)
