"""Shards of codes back to audio."""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from torch import Tensor

from codec.audio import readable, writing_audio
from codec.bitstream import Block
from codec.coding import SampleRange
from codec.coding.decode_blocks import decode_blocks
from codec.model import Codec
from codec.tokens.card import Card
from codec.tokens.encode import Failure, failure
from codec.tokens.processes import map_in_order
from codec.tokens.read import StoredTokens, read_tokens

__all__ = ["Decoded", "Job", "Result", "decode_tokens", "detokenize", "output_path", "write_decoded"]


class Job(NamedTuple):
    """A file to write."""

    tokens: StoredTokens
    target: Path
    problem: str | None  # why it is not written


class Decoded(NamedTuple):
    """A file that was written."""

    seconds: float
    clipped: int  # samples that were set to full scale


Result = tuple[str, Decoded | Failure]  # with the path in the manifest


def detokenize(
    folder: Path, target: Path, make_decoder: Callable[[], Callable[[Job], Result]], jobs: int, force: bool
) -> Iterator[Result]:
    """Writes the audio of every file of a folder of tokens, as .wav, in the subfolders that the manifest names.

    Args:
        folder: Made by `tokenize`.
        target: Folder for the audio.
        make_decoder: Makes, in each process, the function that writes a file: `write_decoded` with a codec.
        jobs: Number of processes.
        force: Whether files that exist are replaced.

    Yields:
        The result of each file, in the order of the manifest.

    Raises:
        TokensError: The folder is not complete or is corrupt.
    """
    yield from map_in_order(make_decoder, _jobs(folder, target, force), jobs)


def _jobs(folder: Path, target: Path, force: bool) -> Iterator[Job]:
    made: set[str] = set()
    for tokens in read_tokens(folder):
        path = output_path(target, tokens.line["path"])
        problem = None
        if str(path) in made:
            problem = f"another file has the same output, {readable(path)}: rename one of them"
        elif not force and path.exists():
            problem = f"{readable(path)} exists: choose another folder, or -f to replace files"
        made.add(str(path))
        yield Job(tokens, path, problem)


def output_path(target: Path, name: str) -> Path:
    """Where the audio of a file goes. An absolute path or `..` does not lead out of the folder."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "//", "..")]
    return target.joinpath(*parts or ["audio"]).with_suffix(".wav")


def write_decoded(codec: Codec, card: Card, job: Job) -> Result:
    """Decodes one file and writes it."""
    name = job.tokens.line["path"]
    if job.problem is not None:
        return name, Failure(job.problem)
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with writing_audio(job.target, codec.config.sample_rate, codec.config.channels) as writer:
            for audio in decode_tokens(codec, card, job.tokens):
                writer.write(audio)
        return name, Decoded(writer.samples / codec.config.sample_rate, writer.clipped)
    except (ValueError, OSError) as error:
        return name, failure(error)


def decode_tokens(codec: Codec, card: Card, tokens: StoredTokens) -> Iterator[Tensor]:
    """The audio of one file in pieces, which together have exactly the samples that were encoded.

    Shape: -> [C, t] each.

    Raises:
        ValueError: The codes do not fit the codec or the number of samples.
    """
    left: int = tokens.line["samples"]
    frames = card.segment_frames(left)
    _check(card, tokens, frames)
    if not left:
        return
    for piece in decode_blocks(codec, _Blocks(tokens, frames), SampleRange()):
        audio = piece.audio[0, :, :left].cpu()
        left -= audio.shape[-1]
        yield audio


class _Blocks:
    """The segments of a file, as blocks. See `BlockReader`."""

    def __init__(self, tokens: StoredTokens, frames: list[int]) -> None:
        self._tokens, self._frames = tokens, frames

    def blocks(self) -> Iterator[Block]:
        codes = np.split(self._tokens.codes.astype(np.int64), np.cumsum(self._frames)[:-1], axis=1)
        gains = [None] * len(codes) if self._tokens.gains is None else self._tokens.gains.tolist()
        yield from map(Block, codes, gains)

    def seek(self, frame: int) -> int:
        return 0

    def corrupt(self, reason: str) -> ValueError:
        return ValueError(reason)


def _check(card: Card, tokens: StoredTokens, frames: list[int]) -> None:
    codes, gains, expected = tokens.codes, tokens.gains, (card.num_codebooks, sum(frames))
    if codes.shape != expected or codes.dtype.kind not in "iu":
        raise ValueError(f"expected whole numbers of the shape {expected}, got {codes.dtype} of {codes.shape}")
    for k, (row, size) in enumerate(zip(codes, card.codebook_sizes, strict=True)):
        if row.size and not 0 <= int(row.min()) <= int(row.max()) < size:
            raise ValueError(f"codebook {k} has the codes 0 to {size - 1}, got {int(row.min())} to {int(row.max())}")
    if card.has_gains and (gains is None or gains.shape != (len(frames),) or not np.isfinite(gains).all()):
        raise ValueError(f"expected {len(frames)} finite gains, got {None if gains is None else gains.tolist()}")
