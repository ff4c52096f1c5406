"""Files to codes on a GPU: processes read the files, and batches of similar length are encoded in this process."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.audio import AudioReader
from codec.coding import PreparedCodec
from codec.model import EncodedSegment
from codec.tokens.batches import encode_signals
from codec.tokens.encode import Failure, Tokens, encode_tokens, failure, join_segments
from codec.tokens.entries import Entry
from codec.tokens.processes import map_in_order

__all__ = ["WINDOW", "encode_windows"]

WINDOW = 64  # files whose signals are sorted by length and encoded together
_LONG_SECONDS = 60.0  # longer files are encoded one by one, while they are read


class _Loaded(NamedTuple):
    audio: NDArray[np.float32]  # [C, T]; a tensor would be passed as an open file, of which there may be few
    notes: tuple[str, ...]


class _Long(NamedTuple):
    path: Path


def encode_windows(
    prepared: PreparedCodec, entries: Iterable[Entry], bandwidth_kbps: float | None, batch_seconds: float, jobs: int
) -> Iterator[Tokens | Failure]:
    """Yields the codes of each file, in order.

    Args:
        prepared: The codec, on its device.
        entries: The files. Every `WINDOW` of them are encoded together.
        bandwidth_kbps: As in `Codec.encode_segments`.
        batch_seconds: Audio in a batch, with its padding.
        jobs: Processes that read and resample.
    """
    config = prepared.codec.config
    make = partial(_make_loader, config.sample_rate, config.channels)
    loaded = map_in_order(make, (entry.path for entry in entries), jobs)
    batch_samples = int(batch_seconds * config.sample_rate)
    while window := list(islice(loaded, WINDOW)):
        yield from _encode_window(prepared, window, bandwidth_kbps, batch_samples)


def _make_loader(sample_rate: int, channels: int) -> Callable[[Path], _Loaded | _Long | Failure]:
    return partial(_load, sample_rate, channels)


def _load(sample_rate: int, channels: int, path: Path) -> _Loaded | _Long | Failure:
    try:
        reader = AudioReader(path, sample_rate, channels)
        blocks = [torch.zeros(channels, 0)]
        for block in reader.blocks():
            blocks.append(block)
            if reader.samples > _LONG_SECONDS * sample_rate:
                return _Long(path)
        return _Loaded(torch.cat(blocks, -1).numpy(), tuple(reader.notes))
    except (ValueError, OSError) as error:
        return failure(error)


def _encode_window(
    prepared: PreparedCodec, window: list[_Loaded | _Long | Failure], bandwidth_kbps: float | None, batch_samples: int
) -> list[Tokens | Failure]:
    segments = [_segments(prepared, item.audio) if isinstance(item, _Loaded) else [] for item in window]
    # TF32 rounds to 10 bits: another batch would have other codes. Benchmarks may choose another algorithm each time.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        encoded = iter(encode_signals(prepared.codec, [*chain(*segments)], bandwidth_kbps, batch_samples))
        return [
            _result(prepared, item, [*islice(encoded, len(parts))], bandwidth_kbps)
            for item, parts in zip(window, segments, strict=True)
        ]


def _result(
    prepared: PreparedCodec,
    item: _Loaded | _Long | Failure,
    segments: list[EncodedSegment],
    bandwidth_kbps: float | None,
) -> Tokens | Failure:
    if isinstance(item, Failure):
        return item
    if isinstance(item, _Long):
        try:
            return encode_tokens(prepared, item.path, bandwidth_kbps)
        except (ValueError, OSError) as error:
            return failure(error)
    config = prepared.codec.config
    codes, gains = join_segments(config, segments, config.codebooks_for(bandwidth_kbps))
    return Tokens(codes, gains, item.audio.shape[-1], item.notes)


def _segments(prepared: PreparedCodec, audio: NDArray[np.float32]) -> list[Tensor]:
    """The independently coded parts of a file, as `Codec.encode_segments` cuts them."""
    config, samples = prepared.codec.config, audio.shape[-1]
    length = config.segment_samples_or(samples)
    starts = range(0, samples, config.segment_stride(samples))
    return [torch.from_numpy(audio[:, start : start + length]) for start in starts]
