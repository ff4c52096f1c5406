"""Headers of many files at once."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from codec.audio import AudioFileError, read_header

__all__ = ["FileHeader", "read_headers"]

_THREADS = 8


class FileHeader(NamedTuple):
    """What a manifest holds of a file."""

    sample_rate: int  # Hz
    channels: int
    frames: int  # samples per channel
    bytes: int


def read_headers(paths: Iterable[str | os.PathLike[str]], threads: int = _THREADS) -> Iterator[FileHeader | str]:
    """The header of each file in order, or the reason why it cannot be read.

    Args:
        threads: Number of headers read at once.
    """
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(_read, paths)


def _read(path: str | os.PathLike[str]) -> FileHeader | str:
    try:
        return FileHeader(*read_header(path), bytes=os.path.getsize(path))
    except AudioFileError as error:
        return error.reason
    except OSError as error:  # removed while it was read
        return f"cannot be read ({error.strerror})"
