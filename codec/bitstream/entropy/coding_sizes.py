"""Measures the bytes that codes take in each coding."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.block_coder import BlockCoder
from codec.bitstream.entropy.adaptive import AdaptiveCoder
from codec.bitstream.entropy.coders import RANDOM_ACCESS_FRAMES
from codec.bitstream.entropy.model_file import EntropyModel
from codec.bitstream.entropy.transformer import TransformerCoder
from codec.config import CodecConfig

__all__ = ["CodingSizes", "coding_sizes", "print_coding_sizes"]

_BLOCK_FRAMES = 512


class CodingSizes(NamedTuple):
    """Sizes of the signals of one group at one bandwidth."""

    group: str
    bandwidth_kbps: float
    signals: int
    frames: int
    fixed_bytes: int
    adaptive_bytes: int
    transformer_bytes: int


def coding_sizes(
    groups: Mapping[str, Sequence[NDArray[np.int64]]], model: EntropyModel, config: CodecConfig
) -> list[CodingSizes]:
    """Encodes signals in each coding, at each bandwidth of the codec.

    Args:
        groups: Codes of signals, [K, F] each.
        model: Entropy model of the codec.
        config: Of the codec.
    """
    network, bits = model.network(), config.bits_per_code
    rows = []
    for bandwidth_kbps in config.bandwidths_kbps:
        k = config.codebooks_for(bandwidth_kbps)
        for name, signals in groups.items():
            signals = [codes[:k] for codes in signals]
            adaptive = sum(_size(AdaptiveCoder(k, bits), c, RANDOM_ACCESS_FRAMES["adaptive"]) for c in signals)
            transformer = sum(
                _size(TransformerCoder(network, k), c, RANDOM_ACCESS_FRAMES["transformer"]) for c in signals
            )
            frames = sum(codes.shape[1] for codes in signals)
            fixed = -(-frames * k * bits // 8)
            rows.append(CodingSizes(name, bandwidth_kbps, len(signals), frames, fixed, adaptive, transformer))
    return rows


def print_coding_sizes(rows: Sequence[CodingSizes]) -> None:
    """Prints a table of bitrates, one row for each group and bandwidth."""
    width = max(len(row.group) for row in rows)
    print(f"{'':{width}}  files  frames    kbps  adaptive       transformer")
    for row in rows:
        cells = []
        for size in (row.adaptive_bytes, row.transformer_bytes):
            ratio = size / max(1, row.fixed_bytes)
            cells.append(f"{row.bandwidth_kbps * ratio:5.2f} ({100 * (ratio - 1):+.1f} %)")
        print(f"{row.group:{width}}  {row.signals:5}  {row.frames:6}  {row.bandwidth_kbps:6g}  {'  '.join(cells)}")


def _size(coder: BlockCoder, codes: NDArray[np.int64], random_access_frames: int) -> int:
    size = 0
    for start in range(0, codes.shape[1], _BLOCK_FRAMES):
        if start % random_access_frames == 0:
            coder.reset()
        size += len(coder.encode(codes[:, start : start + _BLOCK_FRAMES]))
    return size
