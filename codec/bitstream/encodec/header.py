"""Header of the encodec package's files; see `codec.bitstream.encodec.format`."""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, NamedTuple

from codec.bitstream.byte_source import ByteSource
from codec.bitstream.reader import MAGIC, BitstreamError
from codec.config import CodecConfig

__all__ = ["OFFICIAL", "EncodecHeader", "frames_of", "is_encodec_format", "official_name", "read_encodec_header",
           "truncated"]  # fmt: skip

_START = struct.Struct(">4sBI")
_HEADER_LIMIT = 1 << 16  # bytes; some 60 are used

OFFICIAL = {
    "encodec_24khz": CodecConfig(),
    "encodec_48khz": CodecConfig(
        sample_rate=48_000, channels=2, causal=False, norm="time_group_norm", codebooks=16, normalize=True,
        segment_seconds=1.0, bandwidths_kbps=(3.0, 6.0, 12.0, 24.0),
    ),
}  # fmt: skip


class EncodecHeader(NamedTuple):
    """What a file says of itself."""

    model: str  # a key of `OFFICIAL`
    samples: int
    codebooks: int
    compressed: bool  # with the language model

    def to_bytes(self) -> bytes:
        """The start of the file, up to the first segment."""
        keys = {"m": self.model, "al": self.samples, "nc": self.codebooks, "lm": self.compressed}
        text = json.dumps(keys).encode()
        return _START.pack(MAGIC, 0, len(text)) + text

    @property
    def segments(self) -> int:
        """Number of them."""
        return -(-self.samples // self._stride())

    def segment_samples(self) -> Iterator[int]:
        """Samples of each segment; not listed, as a damaged header may claim any number of them."""
        length = OFFICIAL[self.model].segment_samples_or(self.samples)
        return (min(length, self.samples - start) for start in range(0, self.samples, self._stride()))

    def package_reads(self) -> bool:
        """Whether the encodec package can read such a file, its own ones included.

        It reckons frames as n / rate * frame rate in floating point, and for some n, 6720 the first, rounds up to one
        frame too many; it joins no segments of which the last ends first; and it knows no empty file.
        """
        if self.samples == 0:
            return False
        config, stride = OFFICIAL[self.model], self._stride()
        starts = range(0, self.samples, stride)[-2:]
        lengths = [min(config.segment_samples_or(self.samples), self.samples - start) for start in starts]
        ends = [start + frames_of(n, config) * config.hop_samples for start, n in zip(starts, lengths, strict=True)]
        return ends == sorted(ends) and all(
            math.ceil(n / config.sample_rate * config.frame_rate_hz) == frames_of(n, config) for n in lengths
        )

    def _stride(self) -> int:
        config = OFFICIAL[self.model]
        length = config.segment_samples_or(max(1, self.samples))
        return length if config.segment_seconds is None else int((1 - config.overlap) * length)


def frames_of(samples: int, config: CodecConfig) -> int:
    """Of a segment."""
    return -(-samples // config.hop_samples)


def official_name(config: CodecConfig) -> str:
    """What the package calls a model of this architecture.

    Raises:
        ValueError: It has none such; the message says what differs.
    """
    name = "encodec_24khz" if config.channels == 1 else "encodec_48khz"
    official = OFFICIAL[name]
    # Bandwidths are what a model offers; an overlap is of segments.
    passed_over = {"bandwidths_kbps"} | ({"overlap"} if official.segment_seconds is None else set())
    for field in fields(config):
        wanted, got = getattr(official, field.name), getattr(config, field.name)
        if wanted != got and field.name not in passed_over:
            raise ValueError(
                f"the encodec package's format is for its own two models: {name} has {field.name} {wanted}, "
                f"this model has {got}"
            )
    return name


def is_encodec_format(start: bytes) -> bool:
    """Whether the file that begins with these bytes, 5 or more, is of this format."""
    return start.startswith(MAGIC + b"\0")


def read_encodec_header(source: ByteSource, name: str) -> EncodecHeader:
    """Reads up to the first segment.

    Raises:
        BitstreamError: The file is of another format, truncated or damaged, or of no model of the package.
    """
    start = source.read(_START.size)
    if not is_encodec_format(start):
        raise BitstreamError(f"{name} is not in the encodec package's own format (ECDC version 0)")
    if len(start) < _START.size:
        raise truncated(name)
    length = _START.unpack(start)[2]
    if length > _HEADER_LIMIT:
        raise BitstreamError(f"{name} is damaged: its header claims {length} bytes, at most {_HEADER_LIMIT} make sense")
    text = source.read(length)
    if len(text) < length:
        raise truncated(name)
    try:
        return _parsed(text)
    except (ValueError, RecursionError) as error:
        reason = "its JSON is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BitstreamError(
            f"the header of {name}, in the encodec package's own format, is not understood: {reason}"
        ) from error


def _parsed(text: bytes) -> EncodecHeader:
    values: Any = json.loads(text.decode())
    if not isinstance(values, dict) or not {"m", "al", "nc", "lm"} <= values.keys():
        raise ValueError("a JSON object with m, al, nc and lm is wanted")
    header = EncodecHeader(values["m"], values["al"], values["nc"], values["lm"])
    if not isinstance(header.model, str) or header.model not in OFFICIAL:
        raise ValueError(f"its model is {str(header.model)[:40]!r}, none of {', '.join(OFFICIAL)}")
    limits = {"al": (header.samples, 0, 1 << 62), "nc": (header.codebooks, 1, OFFICIAL[header.model].codebooks)}
    for key, (value, least, most) in limits.items():
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{key} must be a whole number from {least} to {most}, got {_shortened(value)}")
    if not isinstance(header.compressed, bool):
        raise ValueError(f"lm must be true or false, got {_shortened(header.compressed)}")
    return header


def _shortened(value: Any) -> str:
    return repr(value)[:40]


def truncated(name: str) -> BitstreamError:
    """An error for a file that ends too early."""
    return BitstreamError(f"{name} is truncated or damaged: it ends before its content does")
