"""Parts that live outside the packages, as a user's own would: one of each kind. Settings name them by
`outside_parts.NAME`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from balancer import Static
from codec.evaluation import Metric
from codec.quantization import CodebookUsage, QuantizerOutput
from data import Segment
from losses import DiscriminatorOutput


class ToneDataset:
    """Tones of random pitch; it needs no files and ignores the settings of them."""

    def __init__(self, sample_rate: int, channels: int, segment_seconds: float, seed: int, **_: Any) -> None:
        self.sample_rate, self.channels, self.seed = sample_rate, channels, seed
        self.segment_samples = round(segment_seconds * sample_rate)

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> Segment:
        generator = torch.Generator().manual_seed(1000 * self.seed + index % len(self))
        hertz = 200 + 800 * torch.rand(1, generator=generator)
        time = torch.arange(self.segment_samples) / self.sample_rate
        return Segment(0.5 * (2 * torch.pi * hertz * time).sin().expand(self.channels, -1))


class Attenuate:
    """Multiplies by a random gain below 1."""

    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        return audio * (self.minimum + (1 - self.minimum) * torch.rand(1, generator=generator))


class EnergyLoss(nn.Module):
    """Difference of the mean energies."""

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        return (estimate.square().mean() - reference.square().mean()).abs()


class ConvDiscriminator(nn.Module):
    """One convolution and one logit per frame."""

    minimum_samples = 16

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.features = nn.Conv1d(1, channels, 16, 8)
        self.logits = nn.Conv1d(channels, 1, 1)

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        features = self.features(audio.flatten(0, 1)[:, None]).relu()
        return DiscriminatorOutput([self.logits(features)], [[features]])


class DrawingScale(Static):
    """A weighted sum that draws from every global generator, when it is made and at every step."""

    def __init__(self) -> None:
        super().__init__()
        _draw()

    def __call__(self, statistics: Any) -> Tensor:
        _draw()
        return super().__call__(statistics)


def _draw() -> None:
    torch.rand(7)
    np.random.rand(7)  # noqa: NPY002 (the global generator is the point)


class ScalarQuantizer(nn.Module):
    """Rounds every channel of the latent to its own number of levels in (-1, 1); channel k is codebook k."""

    usage_counts: Tensor

    def __init__(self, levels: Sequence[int] = (16, 16, 8, 8)) -> None:
        super().__init__()
        self.codebook_sizes = tuple(levels)
        self.latent_dim = len(levels)
        self.beams = 1
        self.initialized = True
        self.register_buffer("usage_counts", torch.zeros(len(levels), max(levels)))

    def settings(self) -> dict[str, Any]:
        return {"levels": list(self.codebook_sizes)}

    def forward(self, latent: Tensor, num_codebooks: int | None = None) -> QuantizerOutput:
        bounded = latent.float().tanh()
        codes = self.encode(latent, num_codebooks)
        quantized = self.decode(codes)
        kept = torch.zeros_like(bounded)
        kept[:, : codes.shape[1]] = bounded[:, : codes.shape[1]]
        commitment = (kept - quantized).square().mean((0, 2))[: codes.shape[1]]
        residuals = kept.detach().movedim(1, -1).flatten(0, 1).expand(codes.shape[1], -1, -1)
        return QuantizerOutput(kept + (quantized - kept).detach(), codes, commitment, residuals)

    def encode(self, latent: Tensor, num_codebooks: int | None = None) -> Tensor:
        return self.search(num_codebooks)(latent)

    def search(self, num_codebooks: int | None = None) -> Callable[[Tensor], Tensor]:
        sizes = torch.tensor(self.codebook_sizes[:num_codebooks], device=self.usage_counts.device)[:, None]

        def encode(latent: Tensor) -> Tensor:
            bounded = latent.detach().float().tanh()[:, : len(sizes)]
            return ((bounded + 1) / 2 * sizes).long().clamp(min=torch.zeros_like(sizes), max=sizes - 1)

        return encode

    def decode(self, codes: Tensor) -> Tensor:
        sizes = torch.tensor(self.codebook_sizes[: codes.shape[1]], device=codes.device)[:, None]
        levels = (2 * codes + 1) / sizes - 1
        return F.pad(levels, (0, 0, 0, self.latent_dim - codes.shape[1]))

    def initialize(
        self, vectors: Tensor, seed: int = 0, num_batches: int = 1, advance: Callable[[], None] = lambda: None
    ) -> None:
        raise AssertionError("a quantizer that is always initialized is not initialized again")

    def reset(self) -> None: ...

    def update(self, output: QuantizerOutput) -> None:
        for counts, codes in zip(self.usage_counts, output.codes.movedim(1, 0), strict=False):
            counts += torch.bincount(codes.flatten(), minlength=len(counts))

    def usage(self) -> CodebookUsage:
        share = self.usage_counts / self.usage_counts.sum(1, keepdim=True).clamp_min(1)
        bits = torch.special.entr(share).sum(1) / np.log(2)
        return CodebookUsage(2**bits, (share == 0).float().mean(1), bits)

    def inference_state(self) -> dict[str, Tensor]:
        return {}

    def load_inference_state(self, state: Mapping[str, Tensor]) -> None:
        if state:
            raise ValueError(f"expected no state, got {', '.join(state)}")


@dataclass(frozen=True)
class FramedNetwork:
    """Encoder and decoder of one strided convolution each. It does not stream."""

    channels: int = 1
    latent_dim: int = 4
    hop_samples: int = 160
    width: int = 8
    causal: bool = False

    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def make_encoder(self) -> nn.Module:
        return _FramedEncoder(self)

    def make_decoder(self) -> nn.Module:
        return _FramedDecoder(self)


class _FramedEncoder(nn.Module):
    def __init__(self, network: FramedNetwork) -> None:
        super().__init__()
        self.hop_samples = network.hop_samples
        self.input_layer = nn.Conv1d(network.channels, network.latent_dim, network.hop_samples, network.hop_samples)

    def forward(self, audio: Tensor) -> Tensor:
        return self.input_layer(F.pad(audio, (0, -audio.shape[-1] % self.hop_samples)))


class _FramedDecoder(nn.Module):
    def __init__(self, network: FramedNetwork) -> None:
        super().__init__()
        hop = network.hop_samples
        self.frames = nn.ConvTranspose1d(network.latent_dim, network.width, hop, hop)
        self.output_layer = nn.Conv1d(network.width, network.channels, 1)

    def forward(self, latent: Tensor) -> Tensor:
        return self.output_layer(self.frames(latent))


PEAK = Metric("peak", "peak", lambda estimate, reference, sample_rate: estimate.abs().amax((1, 2)))
