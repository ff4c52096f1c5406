"""What the codings save, measured by coding."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.block_coding import BlockCoding
from codec.bitstream.entropy.adaptive import AdaptiveCoding
from codec.bitstream.entropy.coders import SYNC_FRAMES
from codec.bitstream.entropy.model_file import EntropyModel
from codec.bitstream.entropy.transformer_coding import TransformerCoding
from codec.config import CodecConfig

__all__ = ["Saving", "print_savings", "savings"]

_BLOCK_FRAMES = 512


class Saving(NamedTuple):
    """Of the signals of a group, each coded by itself."""

    group: str
    kbps: float
    signals: int
    frames: int
    fixed_bytes: int
    adaptive_bytes: int
    transformer_bytes: int


def savings(
    groups: Mapping[str, Sequence[NDArray[np.int64]]], model: EntropyModel, config: CodecConfig
) -> list[Saving]:
    """Bytes of codes in each coding, at each bandwidth of the codec.

    Args:
        groups: Codes of signals, [K, F] each.
        model: Of the codec's codes.
        config: Of the codec.
    """
    network, bits = model.network(), config.bits_per_code
    rows = []
    for kbps in config.bandwidths_kbps:
        books = config.codebooks_for(kbps)
        for name, signals in groups.items():
            coded = [codes[:books] for codes in signals]
            adaptive = sum(_bytes(AdaptiveCoding(books, bits), codes, SYNC_FRAMES["adaptive"]) for codes in coded)
            transformer = sum(_bytes(TransformerCoding(network, books), c, SYNC_FRAMES["transformer"]) for c in coded)
            frames = sum(codes.shape[1] for codes in coded)
            fixed = -(-frames * books * bits // 8)
            rows.append(Saving(name, kbps, len(coded), frames, fixed, adaptive, transformer))
    return rows


def print_savings(rows: Sequence[Saving]) -> None:
    """A table, a row for each group and bandwidth."""
    width = max(len(row.group) for row in rows)
    print(f"{'':{width}}  files  frames    kbps  adaptive       transformer")
    for row in rows:
        cells = []
        for size in (row.adaptive_bytes, row.transformer_bytes):
            share = size / max(1, row.fixed_bytes)
            cells.append(f"{row.kbps * share:5.2f} ({100 * (share - 1):+.1f} %)")
        print(f"{row.group:{width}}  {row.signals:5}  {row.frames:6}  {row.kbps:6g}  {'  '.join(cells)}")


def _bytes(coding: BlockCoding, codes: NDArray[np.int64], sync_frames: int) -> int:
    total = 0
    for start in range(0, codes.shape[1], _BLOCK_FRAMES):
        if start % sync_frames == 0:
            coding.reset()
        total += len(coding.encode(codes[:, start : start + _BLOCK_FRAMES]))
    return total
