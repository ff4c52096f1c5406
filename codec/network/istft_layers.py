"""Layers between the waveform and frames, and their streams: MDCT and spectrum, the latent, inverse STFT.

They pad with zeros, as those of `codec.network.frame_layers`. A stream treats the end of the input as the padding does.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.network.mdct import mdct
from codec.network.stream import PointwiseStream, join, rest

__all__ = ["ISTFTOutput", "LatentOutput", "SpectralInput", "overhang"]

# Spectra are divided by the L2 norm of the window, so white noise has the same magnitudes at every window length.
QUIET = 1e-3  # -60 dBFS; differences far below this magnitude have little effect on the features
LOUDEST = 6.0  # largest logarithm of a gain in the decoder


def overhang(window_samples: int, hop_samples: int) -> int:
    """Samples by which a window that is centred on its frame reaches beyond the frame at either end."""
    return (window_samples - hop_samples) // 2


class SpectralInput(nn.Module):
    """First layer of the encoder: a linear transform of the waveform, and a linear map of its log spectrum.

    Both windows are centred on the frame. The transform is an MDCT at first: D coefficients of windows of two hops, the
    lowest frequencies first, the higher ones amplified as speech gets weaker there. It keeps the waveform, which a
    random transform would have to learn to keep: a loss of magnitudes alone hardly rewards that. The logarithms of the
    magnitudes represent quiet and loud sounds alike.

    Buffers:
        window: [window_samples], not saved.

    Args:
        channels: Audio channels.
        waves: Outputs of the transform, the first channels of the output.
        width: Channels of the output.
        window_samples: Of the spectrum, even and at least two hops.
        hop_samples: Even.

    Shape: audio [B, C, T] -> [B, width, ceil(T / hop_samples)].
    """

    window: Tensor

    def __init__(self, channels: int, waves: int, width: int, window_samples: int, hop_samples: int) -> None:
        super().__init__()
        self.hop_samples = hop_samples
        self.padding = overhang(window_samples, hop_samples)
        self.wave_offset = self.padding - hop_samples // 2  # of the shorter window in the longer
        window = torch.hann_window(window_samples, dtype=torch.float64)
        self.register_buffer("window", (window / window.square().sum().sqrt()).float(), persistent=False)
        self.wave = nn.Conv1d(channels, waves, 2 * hop_samples, hop_samples)
        self.linear = nn.Linear(channels * (window_samples // 2 + 1), width - waves)

    def initialize(self) -> None:
        """Sets the transform to an MDCT. With two channels, its coefficients take turns."""
        waves, channels, _ = self.wave.weight.shape
        with torch.no_grad():
            self.wave.weight.zero_()
            self.wave.bias.zero_()  # type: ignore[union-attr]
            transform = mdct(math.ceil(waves / channels), self.hop_samples).float()
            for i, weight in enumerate(self.wave.weight):
                weight[i % channels] = transform[i // channels]

    def forward(self, audio: Tensor) -> Tensor:
        missing = -audio.shape[-1] % self.hop_samples
        return self.project(F.pad(audio, (self.padding, self.padding + missing)))

    def project(self, audio: Tensor) -> Tensor:
        """Shape: audio with padding [B, C, T] -> [B, width, F]."""
        waves = self.wave(audio[..., self.wave_offset : audio.shape[-1] - self.wave_offset])
        frames = audio.unfold(-1, self.window.numel(), self.hop_samples) * self.window.to(audio.dtype)
        power = torch.view_as_real(torch.fft.rfft(frames)).square().sum(-1)  # [B, C, F, bins]
        # Half of log |X| + 3.5: speech is between -7 and 0.
        loudness = 0.25 * (power + QUIET**2).log() + 1.75
        return torch.cat([waves, self.linear(loudness.transpose(1, 2).flatten(2)).transpose(1, 2)], 1)

    def stream(self) -> "_SpectralStream":
        """A new stream through this layer."""
        return _SpectralStream(self)

    def past_inputs(self, outputs: float) -> float:
        """As `codec.network.stream.receptive_field`, of this layer."""
        return outputs * self.hop_samples + self.padding


class _SpectralStream:
    """Holds the samples from the start of the next window on, at first the padding."""

    def __init__(self, layer: SpectralInput) -> None:
        self.layer = layer
        self.held: Tensor | None = None
        self.samples = 0

    def push(self, x: Tensor, last: bool) -> Tensor:
        layer = self.layer
        hop, window = layer.hop_samples, layer.window.numel()
        left = 0 if self.samples or x.shape[-1] == 0 else layer.padding
        self.samples += x.shape[-1]
        right = layer.padding + -self.samples % hop if last and self.samples else 0
        held = join(self.held, F.pad(x, (left, right)))
        frames = max(0, (held.shape[-1] - window) // hop + 1)
        self.held = rest(held, frames * hop)
        if frames == 0:
            return x.new_zeros(x.shape[0], layer.wave.out_channels + layer.linear.out_features, 0)
        return layer.project(held)


class LatentOutput(nn.Module):
    """Last layer of the encoder: a linear map, at first of the channels with the transform of the waveform alone.

    Shape: [B, width, F] -> latent [B, D, F].
    """

    def __init__(self, width: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, latent_dim)

    def initialize(self) -> None:
        """Sets the map to a choice of the first channels."""
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x.transpose(1, 2))
        return y.transpose(1, 2)

    def stream(self) -> PointwiseStream:
        """A new stream through this layer."""
        return PointwiseStream(self)

    def past_inputs(self, outputs: float) -> float:
        """As `codec.network.stream.receptive_field`, of this layer."""
        return outputs


class ISTFTOutput(nn.Module):
    """Last layer of the decoder: a spectrum for every frame, and the inverse STFT.

    A bin is exp(g) (a + ib) with outputs g, a and b of a linear layer. Vocos writes exp(g) exp(ip) with a phase p.
    Products of a gain and a wave are easier to learn from latents that contain the wave.

    The inverse transforms are multiplied by a Hann window that is centred on its frame, added, and divided by the sum
    of the squared windows (Griffin and Lim 1984). Sample t of the output depends on the frames whose window covers it.

    Buffers:
        window: [window_samples], not saved.

    Args:
        channels: Audio channels.
        width: Channels of the input.
        window_samples, hop_samples: Even; a window is at least two hops long.

    Shape: [B, width, F] -> audio [B, C, F * hop_samples].
    """

    window: Tensor

    def __init__(self, channels: int, width: int, window_samples: int, hop_samples: int) -> None:
        super().__init__()
        self.channels, self.hop_samples = channels, hop_samples
        self.overhang = overhang(window_samples, hop_samples)
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, channels * 3 * (window_samples // 2 + 1))
        self.register_buffer("window", torch.hann_window(window_samples), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        samples = x.shape[-1] * self.hop_samples
        inside = slice(self.overhang, self.overhang + samples)  # outside, the weights fall to 0
        total, weights = self.overlap_add(x)
        return total[..., inside] / weights[inside]

    def overlap_add(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of the windowed frames and of the squared windows; the first frame begins with the first sample.

        Shape: [B, width, F] -> [B, C, (F - 1) * hop_samples + window_samples] and [the same length].
        """
        frames = self.frames(x)
        batch, channels, count, length = frames.shape
        squares = self.window.to(frames.dtype).square().expand(1, count, length)
        return self._fold(frames.flatten(0, 1)).view(batch, channels, -1), self._fold(squares)[0]

    def frames(self, x: Tensor) -> Tensor:
        """Windowed frames of audio. Shape: [B, width, F] -> [B, C, F, window_samples]."""
        y = self.linear(self.norm(x.transpose(1, 2)))
        y = y.to(torch.promote_types(y.dtype, torch.float32)).unflatten(-1, (self.channels, -1)).transpose(1, 2)
        gain, real, imaginary = y.chunk(3, -1)
        gain = gain.clamp(max=LOUDEST).exp()
        spectrum = torch.complex(gain * real, gain * imaginary)
        return torch.fft.irfft(spectrum, self.window.numel()) * self.window.to(y.dtype)

    def stream(self) -> "_ISTFTStream":
        """A new stream through this layer."""
        return _ISTFTStream(self)

    def past_inputs(self, outputs: float) -> float:
        """As `codec.network.stream.receptive_field`, of this layer."""
        return math.ceil(outputs / self.hop_samples) + math.ceil(self.overhang / self.hop_samples)

    def _fold(self, frames: Tensor) -> Tensor:
        """Shape: frames [N, F, n] -> [N, (F - 1) * hop_samples + n]."""
        length = (frames.shape[1] - 1) * self.hop_samples + frames.shape[2]
        kernel, stride = (1, frames.shape[2]), (1, self.hop_samples)
        return F.fold(frames.transpose(1, 2), (1, length), kernel, stride=stride)[:, 0, 0]


class _ISTFTStream:
    """Holds the sums for the samples that later frames add to, and the same of the squared windows."""

    def __init__(self, layer: ISTFTOutput) -> None:
        self.layer = layer
        self.held: tuple[Tensor, Tensor] | None = None  # [B, C, t] and [t] with t = window_samples - hop_samples
        self.to_drop = layer.overhang  # samples before the start of the signal

    def push(self, x: Tensor, last: bool) -> Tensor:
        layer = self.layer
        pieces = []
        if x.shape[-1]:
            total, weights = layer.overlap_add(x)
            if self.held is not None:
                sums, squares = self.held
                total[..., : sums.shape[-1]] += sums
                weights[: len(squares)] += squares
            ready = x.shape[-1] * layer.hop_samples
            pieces.append(total[..., :ready] / weights[:ready])
            self.held = total[..., ready:].clone(), weights[ready:].clone()
        if last and self.held is not None:
            sums, squares = self.held
            pieces.append(sums[..., : layer.overhang] / squares[: layer.overhang])
        audio = torch.cat([x.new_zeros(x.shape[0], layer.channels, 0), *pieces], -1)
        dropped = min(self.to_drop, audio.shape[-1])
        self.to_drop -= dropped
        return audio[..., dropped:]
