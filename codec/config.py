"""The description of a codec that outlives its training run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from codec.ranges import ProperFraction, SampleRate, check_ranges

__all__ = ["CodecConfig", "flatten_settings", "part_settings"]


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """What files and tools need to know about a codec: its signal, its frames, its rates and its parts.

    A `Codec` makes its config from its network and its quantizer. Nothing in it depends on how the codec is trained.

    Args:
        sample_rate: Rate of the audio in Hz.
        bandwidths_kbps: Bitrates that the codec is trained for and offers, in kbit/s.
        normalize: Divide each segment by its RMS before encoding and multiply after decoding.
        segment_seconds: Length of the independently coded segments; None codes a file in one piece.
        overlap: Overlap of neighbouring segments, as a fraction of the segment.
        channels, latent_dim, hop_samples, causal: Of the network, see `codec.network.Network`.
        codebook_sizes: Of the quantizer, number of codes of each codebook.
        network, quantizer: Class name (`name`) and settings of the parts.

    Raises:
        ValueError: A value is out of range, or a bandwidth is out of reach; the message names value and range.
    """

    sample_rate: SampleRate
    bandwidths_kbps: Sequence[float]
    normalize: bool
    segment_seconds: float | None
    overlap: ProperFraction
    channels: int
    latent_dim: int
    hop_samples: int
    causal: bool
    codebook_sizes: Sequence[int]
    network: Mapping[str, Any]
    quantizer: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "bandwidths_kbps", tuple(float(b) for b in self.bandwidths_kbps))
        object.__setattr__(self, "codebook_sizes", tuple(self.codebook_sizes))
        check_ranges(CodecConfig, vars(self))
        frame_seconds = self.hop_samples / self.sample_rate
        if self.segment_seconds is not None and not frame_seconds <= self.segment_seconds < math.inf:
            raise ValueError(
                f"segment_seconds must be at least one frame of {frame_seconds} s, got {self.segment_seconds}"
            )
        for bandwidth in self.bandwidths_kbps:
            self.codebooks_for(bandwidth)

    @property
    def frame_rate_hz(self) -> int:
        """Latent frames per second, rounded up as in encodec, so that bitrates are whole bits per second."""
        return math.ceil(self.sample_rate / self.hop_samples)

    @property
    def num_codebooks(self) -> int:
        """Number K of codebooks."""
        return len(self.codebook_sizes)

    @property
    def codebook_size(self) -> int:
        """Codes per codebook.

        Raises:
            ValueError: The codebooks differ in size.
        """
        if len(set(self.codebook_sizes)) != 1:
            raise ValueError(f"expected codebooks of one size, got {self.codebook_sizes}")
        return self.codebook_sizes[0]

    @property
    def bits_per_code(self) -> int:
        """Whole bits that a code takes without entropy coding."""
        return math.ceil(math.log2(max(self.codebook_sizes)))

    @property
    def kbps_per_codebook(self) -> float:
        """Bitrate of one codebook in kbit/s."""
        return self.kbps_of(1)

    def kbps_of(self, num_codebooks: int) -> float:
        """Bitrate of this number of codebooks in kbit/s."""
        return num_codebooks * self.bits_per_code * self.frame_rate_hz / 1000

    @property
    def can_stream(self) -> bool:
        """Whether the codec streams: its network does, and it codes in one piece without the RMS of the whole."""
        return self.causal and self.segment_seconds is None and not self.normalize

    def codebooks_for(self, bandwidth_kbps: float | None) -> int:
        """Number of whole codebooks that fit into `bandwidth_kbps`; all codebooks for None.

        Raises:
            ValueError: Not even one codebook fits, or there are too few codebooks to reach the bandwidth.
        """
        if bandwidth_kbps is None:
            return self.num_codebooks
        # The tolerance keeps 1.5 kbps / 0.75 at 2 codebooks when the quotient rounds to 1.9999999.
        count = bandwidth_kbps / self.kbps_per_codebook
        if not 1 <= count + 1e-6 < self.num_codebooks + 1:
            raise ValueError(
                f"a bitrate of {bandwidth_kbps} kbps needs {count:.3g} codebooks of {self.kbps_per_codebook} kbps, "
                f"but this codec has 1 to {self.num_codebooks}"
            )
        return math.floor(count + 1e-6)

    def segment_samples_or(self, whole: int) -> int:
        """Samples per independently coded segment, or `whole` if the codec codes a file in one piece."""
        return whole if self.segment_seconds is None else int(self.segment_seconds * self.sample_rate)

    def segment_stride(self, whole: int) -> int:
        """Samples from the start of one segment to the start of the next; `whole` if the codec has no segments."""
        length = self.segment_samples_or(whole)
        return max(1, length if self.segment_seconds is None else int((1 - self.overlap) * length))

    def to_dict(self) -> dict[str, Any]:
        """Everything that makes an equal codec, in lists, strings and numbers; `codec.make_codec` is the inverse."""
        return {
            "sample_rate": self.sample_rate,
            "bandwidths_kbps": list(self.bandwidths_kbps),
            "normalize": self.normalize,
            "segment_seconds": self.segment_seconds,
            "overlap": self.overlap,
            "network": dict(self.network),
            "quantizer": dict(self.quantizer),
        }


def part_settings(settings: Mapping[str, Any], part: Literal["encoder", "quantizer", "decoder"]) -> dict[str, Any]:
    """Class name (`name`) and settings of one part, from those of `CodecConfig.to_dict`.

    Of a network that makes both encoder and decoder, settings of the other one are left out, see `Network.settings`.
    """
    if part == "quantizer":
        return dict(settings["quantizer"])
    network = settings["network"]
    if isinstance(network.get(part), Mapping):
        network = network[part]
    other = "decoder_" if part == "encoder" else "encoder_"
    return {name: value for name, value in network.items() if not name.startswith(other)}


def flatten_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, such as those of `CodecConfig.to_dict`, by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": each for inner, each in flatten_settings(value).items()}
        else:
            flat[name] = value
    return flat
