"""The one description of a codec that outlives its training run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

__all__ = ["CodecConfig"]


@dataclass(frozen=True)
class CodecConfig:
    """Architecture of an EnCodec-style codec (Défossez et al. 2022, section 3.1 and 3.2).

    It is stored as a plain dict in checkpoints, exported models and their fingerprint; nothing in it depends
    on how the codec is trained.

    Args:
        sample_rate: Rate of the audio in Hz.
        channels: Audio channels, 1 or 2.
        filters: Channels after the first convolution (`C` in the paper); doubled by every stride.
        strides: Strides of the encoder in its own order, from the waveform down; the decoder mirrors them.
        latent_dim: Width `D` of the latent that is quantized.
        kernel_size: Kernel of the first and last convolutions of encoder and decoder.
        residual_kernel_size: Kernel of the dilated convolution in a residual unit.
        residual_layers: Residual units before each stride, with dilations `dilation_base ** layer`.
        dilation_base: See `residual_layers`.
        compress: A residual unit works on `width / compress` channels.
        celu_alpha: Scale of the activations, which are alpha (exp(x / alpha) - 1) below zero. With 1 they are the ELU
            of all published models; near 0 rectifiers, two of which hand on the halves of a wave at any level.
        lstm_layers: LSTM layers between convolutions and latent; 0 for none.
        causal: Left padding only, so that a frame needs no future sample.
        norm: `weight_norm` (24 kHz model), `time_group_norm` (a group norm with one group, over channels and
            time: the non-causal 48 kHz model), or `none`.
        padding: `reflect` (encodec) or `constant`, that is zeros (audiocraft).
        skip: `conv` (a 1x1 convolution, encodec) or `identity` (audiocraft).
        codebooks: Number `K` of residual codebooks.
        codebook_size: Codes per book, a power of two so that a code is a whole number of bits.
        bandwidths_kbps: Rates the codec is trained for and offers; each must be reachable with whole books.
        normalize: Divide each segment by its RMS before encoding and multiply after decoding.
        segment_seconds: Length of the independently coded segments; None codes a file in one piece.
        overlap: Overlap of neighbouring segments as a share of the segment.

    Raises:
        ValueError: A value is out of range, or a bandwidth is out of reach; the message names both sides.
    """

    sample_rate: int = 24_000
    channels: int = 1
    filters: int = 32
    strides: Sequence[int] = (2, 4, 5, 8)
    latent_dim: int = 128
    kernel_size: int = 7
    residual_kernel_size: int = 3
    residual_layers: int = 1
    dilation_base: int = 2
    compress: int = 2
    celu_alpha: float = 1.0
    lstm_layers: int = 2
    causal: bool = True
    norm: Literal["weight_norm", "time_group_norm", "none"] = "weight_norm"
    padding: Literal["reflect", "constant"] = "reflect"
    skip: Literal["conv", "identity"] = "conv"
    codebooks: int = 32
    codebook_size: int = 1024
    bandwidths_kbps: Sequence[float] = (1.5, 3.0, 6.0, 12.0, 24.0)
    normalize: bool = False
    segment_seconds: float | None = None
    overlap: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "strides", tuple(self.strides))
        object.__setattr__(self, "bandwidths_kbps", tuple(float(b) for b in self.bandwidths_kbps))
        for name in ("sample_rate", "filters", "latent_dim", "kernel_size", "residual_kernel_size",
                     "residual_layers", "dilation_base", "compress", "codebooks"):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive whole number, got {value!r}")
        if self.channels not in (1, 2):
            raise ValueError(f"channels must be 1 or 2, got {self.channels}")
        if not self.strides or not all(isinstance(s, int) and s >= 1 for s in self.strides):
            raise ValueError(f"strides must be positive whole numbers, got {self.strides}")
        if self.lstm_layers < 0:
            raise ValueError(f"lstm_layers must be 0 or more, got {self.lstm_layers}")
        if not (isinstance(self.celu_alpha, int | float) and 0 < self.celu_alpha < math.inf):
            raise ValueError(f"celu_alpha must be a finite number above 0, got {self.celu_alpha!r}")
        if self.codebook_size < 2 or self.codebook_size & (self.codebook_size - 1):
            raise ValueError(f"codebook_size must be a power of two, got {self.codebook_size}")
        for name, allowed in (("norm", ("weight_norm", "time_group_norm", "none")),
                              ("padding", ("reflect", "constant")), ("skip", ("conv", "identity"))):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.causal and self.norm == "time_group_norm":
            raise ValueError("time_group_norm averages over all of time, so it needs causal: false")
        frame_seconds = self.hop_samples / self.sample_rate
        if self.segment_seconds is not None and not frame_seconds <= self.segment_seconds < math.inf:
            raise ValueError(f"segment_seconds must be at least one frame of {frame_seconds} s, "
                             f"got {self.segment_seconds}")  # fmt: skip
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap must be in [0, 1), got {self.overlap}")
        for bandwidth in self.bandwidths_kbps:
            self.codebooks_for(bandwidth)

    @property
    def hop_samples(self) -> int:
        """Samples per latent frame."""
        return math.prod(self.strides)

    @property
    def frame_rate_hz(self) -> int:
        """Latent frames per second, rounded up as encodec does so that rates are whole bits."""
        return math.ceil(self.sample_rate / self.hop_samples)

    @property
    def bits_per_code(self) -> int:
        return self.codebook_size.bit_length() - 1

    @property
    def kbps_per_codebook(self) -> float:
        return self.bits_per_code * self.frame_rate_hz / 1000

    def codebooks_for(self, bandwidth_kbps: float) -> int:
        """Whole codebooks that fit into `bandwidth_kbps`.

        Raises:
            ValueError: Not even one book fits, or there are too few books to reach it.
        """
        # The tolerance keeps 1.5 kbps / 0.75 at 2 books when the quotient rounds to 1.9999999.
        books = bandwidth_kbps / self.kbps_per_codebook
        if not 1 <= books + 1e-6 < self.codebooks + 1:
            raise ValueError(
                f"a bandwidth of {bandwidth_kbps} kbps needs {books:.3g} codebooks of {self.kbps_per_codebook} kbps, "
                f"but this codec has 1 to {self.codebooks}"
            )
        return math.floor(books + 1e-6)

    def segment_samples_or(self, whole: int) -> int:
        """Samples per independently coded segment, or `whole` if the codec codes a file in one piece."""
        return whole if self.segment_seconds is None else int(self.segment_seconds * self.sample_rate)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, ready for JSON.

        The ELU goes without saying, so that models from before `celu_alpha` keep their fingerprints.
        """
        settings = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if self.celu_alpha == 1:
            del settings["celu_alpha"]
        return settings

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CodecConfig":
        """Inverse of `to_dict`.

        Raises:
            ValueError: A key is not a field of this class; the message names it.
        """
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"unknown codec setting {', '.join(unknown)}")
        return cls(**values)
