"""Header of the encodec package's files. `codec.bitstream.encodec.segments` describes the format."""

import json
import math
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from codec.bitstream.byte_source import ByteSource
from codec.bitstream.header import BitstreamError
from codec.bitstream.layout import MAGIC
from codec.config import CodecConfig, flatten_settings
from codec.network import SEANet

__all__ = ["PACKAGE_CONFIGS", "EncodecHeader", "frames_of", "is_encodec_format", "package_model_name",
           "read_encodec_header", "truncated"]  # fmt: skip

_START = struct.Struct(">4sBI")
_MAX_HEADER_BYTES = 1 << 16  # about 60 are used
_MAX_SAMPLES = 1 << 62


def _config(
    network: SEANet,
    sample_rate: int,
    num_codebooks: int,
    bandwidths_kbps: tuple[float, ...],
    segment_seconds: float | None,
) -> CodecConfig:
    quantizer = {"latent_dim": network.latent_dim, "num_codebooks": num_codebooks, "codebook_size": 1024}
    return CodecConfig(
        sample_rate=sample_rate,
        bandwidths_kbps=bandwidths_kbps,
        normalize=segment_seconds is not None,
        segment_seconds=segment_seconds,
        overlap=0.01,
        channels=network.channels,
        latent_dim=network.latent_dim,
        hop_samples=network.hop_samples,
        causal=network.causal,
        codebook_sizes=[1024] * num_codebooks,
        network={"name": "SEANet"} | network.settings(),
        quantizer={"name": "ResidualVectorQuantizer"} | quantizer,
    )


# The two models of the encodec package, by the names that it stores.
PACKAGE_CONFIGS = {
    "encodec_24khz": _config(SEANet(), 24_000, 32, (1.5, 3.0, 6.0, 12.0, 24.0), None),
    "encodec_48khz": _config(
        SEANet(channels=2, causal=False, norm="time_group_norm"), 48_000, 16, (3.0, 6.0, 12.0, 24.0), 1.0
    ),
}


class EncodecHeader(NamedTuple):
    """The entries of a header."""

    model: str  # a key of `PACKAGE_CONFIGS`
    samples: int
    num_codebooks: int
    is_compressed: bool  # with the language model

    def to_bytes(self) -> bytes:
        """The start of the file, up to the first segment."""
        entries = {"m": self.model, "al": self.samples, "nc": self.num_codebooks, "lm": self.is_compressed}
        text = json.dumps(entries).encode()
        return _START.pack(MAGIC, 0, len(text)) + text

    @property
    def segments(self) -> int:
        """Number of segments."""
        return -(-self.samples // self._stride())

    def segment_samples(self) -> Iterator[int]:
        """Yields the samples of each segment. Not a list, because a corrupt header may announce any number."""
        length = PACKAGE_CONFIGS[self.model].segment_samples_or(self.samples)
        return (min(length, self.samples - start) for start in range(0, self.samples, self._stride()))

    def package_can_read(self) -> bool:
        """Whether the encodec package can read a file of this length.

        It fails on some of its own files. It computes frames as n / rate * frame rate in floating point, which for some
        n (the first is 6720) is one frame too many. It cannot join segments of which the last ends before the one
        before it. It cannot read an empty file.
        """
        if self.samples == 0:
            return False
        config, stride = PACKAGE_CONFIGS[self.model], self._stride()
        starts = range(0, self.samples, stride)[-2:]
        lengths = [min(config.segment_samples_or(self.samples), self.samples - start) for start in starts]
        ends = [start + frames_of(n, config) * config.hop_samples for start, n in zip(starts, lengths, strict=True)]
        return ends == sorted(ends) and all(
            math.ceil(n / config.sample_rate * config.frame_rate_hz) == frames_of(n, config) for n in lengths
        )

    def _stride(self) -> int:
        config = PACKAGE_CONFIGS[self.model]
        length = config.segment_samples_or(max(1, self.samples))
        return length if config.segment_seconds is None else int((1 - config.overlap) * length)


def frames_of(samples: int, config: CodecConfig) -> int:
    """Frames of a segment of `samples` samples."""
    return -(-samples // config.hop_samples)


def package_model_name(config: CodecConfig) -> str:
    """The name under which the encodec package knows models of this architecture.

    Raises:
        ValueError: The package has no such model; the message names the first setting that differs.
    """
    name = "encodec_24khz" if config.channels == 1 else "encodec_48khz"
    package = PACKAGE_CONFIGS[name]
    # The bandwidths on offer do not change the format, nor does the overlap of a model without segments.
    ignored = {"bandwidths_kbps"} | ({"overlap"} if package.segment_seconds is None else set())
    theirs, ours = flatten_settings(package.to_dict()), flatten_settings(config.to_dict())
    for setting in dict.fromkeys([*theirs, *ours]):
        expected, got = theirs.get(setting), ours.get(setting)
        if expected != got and setting not in ignored:
            raise ValueError(
                f"the format of the encodec package needs the architecture of one of its two models: {name} has "
                f"{setting} {expected}, this model has {got}"
            )
    return name


def is_encodec_format(start: bytes) -> bool:
    """Whether a file that starts with these bytes (5 or more) has the format of the encodec package."""
    return start.startswith(MAGIC + b"\0")


def read_encodec_header(source: ByteSource, name: str) -> EncodecHeader:
    """Reads the file up to the first segment.

    Raises:
        BitstreamError: The file has another format, is truncated or corrupt, or names an unknown model.
    """
    start = source.read(_START.size)
    if not is_encodec_format(start):
        raise BitstreamError(f"{name} does not have the format of the encodec package (ECDC version 0)")
    if len(start) < _START.size:
        raise truncated(name)
    length = _START.unpack(start)[2]
    if length > _MAX_HEADER_BYTES:
        raise BitstreamError(
            f"{name} is corrupt: its header announces {length} bytes, but the maximum is {_MAX_HEADER_BYTES}"
        )
    text = source.read(length)
    if len(text) < length:
        raise truncated(name)
    try:
        return _parse(text)
    except (ValueError, RecursionError) as error:
        reason = "its JSON is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BitstreamError(f"the header of {name}, in the format of the encodec package, is invalid: {reason}") from (
            error
        )


def truncated(name: str) -> BitstreamError:
    """Returns the error for a file that ends too early."""
    return BitstreamError(f"{name} is truncated or corrupt: it ends too early")


def _parse(text: bytes) -> EncodecHeader:
    values: Any = json.loads(text.decode())
    if not isinstance(values, dict) or not {"m", "al", "nc", "lm"} <= values.keys():
        raise ValueError("expected a JSON object with m, al, nc and lm")
    header = EncodecHeader(values["m"], values["al"], values["nc"], values["lm"])
    if not isinstance(header.model, str) or header.model not in PACKAGE_CONFIGS:
        raise ValueError(f"m must be one of {', '.join(PACKAGE_CONFIGS)}, got {_excerpt(header.model)}")
    max_codebooks = PACKAGE_CONFIGS[header.model].num_codebooks
    limits = {"al": (header.samples, 0, _MAX_SAMPLES), "nc": (header.num_codebooks, 1, max_codebooks)}
    for key, (value, least, most) in limits.items():
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{key} must be a whole number from {least} to {most}, got {_excerpt(value)}")
    if not isinstance(header.is_compressed, bool):
        raise ValueError(f"lm must be true or false, got {_excerpt(header.is_compressed)}")
    return header


def _excerpt(value: Any) -> str:
    return repr(value)[:40]
