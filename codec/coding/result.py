"""What encoding or decoding one file reports."""

from typing import NamedTuple

__all__ = ["CodingResult", "bitrate_kbps"]


class CodingResult(NamedTuple):
    """What was done to one file."""

    seconds: float  # of audio
    encoded_bytes: int  # of the encoded file, or of the part of it that was decoded
    kbps: float
    elapsed_seconds: float  # that coding took, without loading the model
    details: list[str]  # what was done on purpose: conversions
    notes: list[str]  # what may surprise, as sentences: missing audio, clipping


def bitrate_kbps(encoded_bytes: int, seconds: float) -> float:
    """Bitrate of an encoded file or a part of it; 0 if it has no audio."""
    return 8 * encoded_bytes / seconds / 1000 if seconds else 0.0
