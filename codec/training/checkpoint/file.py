"""The file of a checkpoint: an ordinary `torch.save` archive with a checksum in the comment of its ZIP format.

It holds tensors and primitives, and `torch.load(path, weights_only=True)` reads it. torch by itself checks no sums:
it loads flipped bits without a word.
"""

import hashlib
import json
import os
import struct
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor, nn

__all__ = ["Label", "UnreadableError", "check_storable", "read_archive", "read_label", "write_archive"]

_FORMAT = 1
# End record of a ZIP archive: signature, 16 bytes of counts and offsets, length of the comment that follows.
_END_RECORD = struct.Struct("<4s16xH")
_END_SIGNATURE = b"PK\x05\x06"
_LONGEST_COMMENT = 1024


class UnreadableError(Exception):
    """Why a file cannot be used, in a few words."""


class Label(NamedTuple):
    """What can be told without loading the state."""

    step: int
    score: float | None


class _Seal(NamedTuple):
    """The comment of an archive, and how long the archive is without it."""

    label: Label
    header: bytes
    digest: str
    archive_bytes: int


def write_archive(file: BinaryIO, state: dict[str, Any], label: Label) -> None:
    """Writes the state, and behind it the label and the checksum.

    Raises:
        OSError: What `file` raised.
    """
    stream = _HashingStream(file)
    try:
        torch.save(state, cast(IO[bytes], stream))
    finally:
        if stream.error is not None:
            raise stream.error
    header = json.dumps({"format": _FORMAT, **label._asdict()}).encode()
    stream.digest.update(header)
    comment = header + b" " + stream.digest.hexdigest().encode()
    # torch ends the archive with a comment of length 0: put in the true length, and the comment.
    file.seek(-2, os.SEEK_END)
    file.write(struct.pack("<H", len(comment)) + comment)


class _HashingStream:
    """Passes bytes on and sums them; keeps an error back until torch has finished.

    torch's writer completes the archive while an exception unwinds, fails again, and hides the first error behind
    a RuntimeError about positions.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self.error: OSError | None = None
        self._file = file

    def write(self, data: bytes | memoryview) -> int:
        self.digest.update(data)
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Nothing to do: the file is flushed before it is renamed."""


def read_archive(path: Path) -> tuple[Label, dict[str, Any]]:
    """Label and state (on CPU), once the checksum was found right.

    Raises:
        UnreadableError: The file is damaged, foreign or unsafe.
    """
    with _opened(path) as file:
        label = _read_checked_label(file)
        file.seek(0)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a file made to do harm can provoke anything
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UnreadableError(f"torch refuses it as unsafe or malformed ({reason})") from error
    if not isinstance(state, dict):
        raise UnreadableError(f"it holds a {type(state).__name__}, wanted a dict")
    return label, state


def read_label(path: Path) -> Label:
    """The label alone, once the checksum was found right.

    Raises:
        UnreadableError: The file is damaged or foreign.
    """
    with _opened(path) as file:
        return _read_checked_label(file)


def _read_checked_label(file: BinaryIO) -> Label:
    seal = _read_seal(file)
    if _digest(file, seal) != seal.digest:
        raise UnreadableError("it is damaged, its checksum does not match")
    return seal.label


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise UnreadableError(f"it cannot be read, {error.strerror or error}") from error


def _read_seal(file: BinaryIO) -> _Seal:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_RECORD.size - _LONGEST_COMMENT))
    tail = file.read()
    at = tail.rfind(_END_SIGNATURE)
    if at < 0 or len(tail) < at + _END_RECORD.size:
        raise UnreadableError(f"it is cut short or no checkpoint, {size} bytes")
    _, comment_bytes = _END_RECORD.unpack_from(tail, at)
    header, _, digest = tail[at + _END_RECORD.size :].rpartition(b" ")
    if comment_bytes != len(tail) - at - _END_RECORD.size or not header:
        raise UnreadableError("it is damaged or was not written by this project")
    try:
        values = json.loads(header)
        version, step, score = values["format"], values["step"], values["score"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnreadableError("it is damaged or was not written by this project") from error
    if version != _FORMAT:
        raise UnreadableError(f"it is of format {version!r}, wanted {_FORMAT}")
    if type(step) is not int or type(score) not in (float, type(None)):
        raise UnreadableError(f"its label is wrong: step {step!r}, score {score!r}")
    return _Seal(Label(step, score), header, digest.decode("ascii", "replace"), size - comment_bytes)


def _digest(file: BinaryIO, seal: _Seal) -> str:
    """SHA-256 of the archive as torch wrote it, with a comment of length 0, and of the label."""
    digest = hashlib.sha256()
    file.seek(0)
    left = seal.archive_bytes - 2
    while left and (chunk := file.read(min(left, 1 << 20))):
        digest.update(chunk)
        left -= len(chunk)
    digest.update(b"\0\0" + seal.header)
    return digest.hexdigest()


def check_storable(value: object, where: str) -> None:
    """Refuses what `read_archive` could not give back.

    Raises:
        TypeError: Naming the place, as in `state['optimizer']['lr']`.
    """
    # Exact types: a subclass, numpy.float64 of float for one, is stored by its class, which weights_only refuses.
    kind = type(value)
    if kind in (dict, OrderedDict):
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) not in (str, int):
                raise TypeError(f"{where} has the key {key!r}, wanted a str or int")
            check_storable(item, f"{where}[{key!r}]")
    elif kind in (list, tuple):
        for index, item in enumerate(value):  # type: ignore[arg-type, var-annotated]
            check_storable(item, f"{where}[{index}]")
    elif isinstance(value, Tensor) and kind in (Tensor, nn.Parameter):
        if value.is_meta or value.layout != torch.strided:
            raise TypeError(f"{where} is a {value.layout} tensor on {value.device}, wanted a dense one with data")
    elif kind not in (bool, int, float, str, type(None)):
        raise TypeError(
            f"{where} is a {kind.__module__}.{kind.__qualname__}, wanted tensors, bool, int, float, str, None, "
            "and dicts, lists and tuples of them"
        )
