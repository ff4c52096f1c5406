"""The trainer takes a network and a quantizer that no package knows: three steps, validation, checkpoint, resuming."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from balancer import Balancer, GradNorm, Keep, Sum
from codec import Codec
from codec.quantization import CodebookUsage, QuantizerOutput
from codec.training import AdversarialTraining
from tiny_run import RATE, differences, metric_lines, take_steps, tidied, tiny_adversarial, tiny_trainer


@pytest.fixture(autouse=True)
def _tidied() -> Iterator[None]:
    with tidied():
        yield


class FrameEncoder(nn.Module):
    """A linear transform of frames."""

    def __init__(self, hop: int, dim: int) -> None:
        super().__init__()
        self.input_layer = nn.Conv1d(1, dim, hop, stride=hop)

    def forward(self, audio: Tensor) -> Tensor:
        missing = -audio.shape[-1] % self.input_layer.stride[0]
        latent: Tensor = self.input_layer(nn.functional.pad(audio, (0, missing)))
        return latent


class FrameDecoder(nn.Module):
    """A linear transform back to frames."""

    def __init__(self, hop: int, dim: int) -> None:
        super().__init__()
        self.output_layer = nn.Linear(dim, hop)

    def forward(self, latent: Tensor) -> Tensor:
        frames: Tensor = self.output_layer(latent.transpose(1, 2))
        return frames.flatten(1)[:, None]


@dataclass(frozen=True)
class FrameNetwork:
    channels: int = 1
    latent_dim: int = 8
    hop_samples: int = 20
    causal: bool = False

    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def make_encoder(self) -> nn.Module:
        return FrameEncoder(self.hop_samples, self.latent_dim)

    def make_decoder(self) -> nn.Module:
        return FrameDecoder(self.hop_samples, self.latent_dim)


class ScalarQuantizer(nn.Module):
    """Codebook k rounds dimension k of the latent to `levels[k]` values in [-1, 1]."""

    beams = 1
    initialized = True

    def __init__(self, latent_dim: int = 8, levels: tuple[int, ...] = (8, 5)) -> None:
        super().__init__()
        self.latent_dim, self.codebook_sizes = latent_dim, levels

    def settings(self) -> dict[str, Any]:
        return {"latent_dim": self.latent_dim, "levels": list(self.codebook_sizes)}

    def forward(self, latent: Tensor, num_codebooks: int | None = None) -> QuantizerOutput:
        codes = self.encode(latent.detach(), num_codebooks)
        quantized = self.decode(codes)
        distance = (latent - quantized)[:, : codes.shape[1]].square().mean((0, 2))
        return QuantizerOutput(latent + (quantized - latent).detach(), codes, distance, latent.new_zeros(0))

    def encode(self, latent: Tensor, num_codebooks: int | None = None) -> Tensor:
        steps = torch.tensor(self.codebook_sizes[:num_codebooks], device=latent.device)[:, None] - 1
        return ((latent[:, : len(steps)].clamp(-1, 1) + 1) / 2 * steps).round().long()

    def search(self, num_codebooks: int | None = None) -> Any:
        return lambda latent: self.encode(latent, num_codebooks)

    def decode(self, codes: Tensor) -> Tensor:
        steps = torch.tensor(self.codebook_sizes[: codes.shape[1]], device=codes.device)[:, None] - 1
        return nn.functional.pad(codes / steps * 2 - 1, (0, 0, 0, self.latent_dim - codes.shape[1]))

    def initialize(self, vectors: Tensor, seed: int = 0, num_batches: int = 1) -> None: ...

    def reset(self) -> None: ...

    def update(self, output: QuantizerOutput) -> None: ...

    def usage(self) -> CodebookUsage:
        sizes = torch.tensor(self.codebook_sizes, dtype=torch.float)
        return CodebookUsage(sizes, torch.zeros_like(sizes), sizes.log2())

    def inference_state(self) -> dict[str, Tensor]:
        return {}

    def load_inference_state(self, state: Mapping[str, Tensor]) -> None: ...


def outside_codec() -> Codec:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Codec(FrameNetwork(), ScalarQuantizer(), sample_rate=RATE)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_and_a_quantizer_from_outside_train_and_resume(tmp_path: Path, precision: str) -> None:
    def adversarial() -> AdversarialTraining:
        return tiny_adversarial()

    before = outside_codec().state_dict()
    trainer = tiny_trainer(
        tmp_path, codec=outside_codec(), adversarial=adversarial(), max_steps=3, log_every=1, precision=precision
    )
    scores = trainer.run()
    assert trainer.skipped.total == 0
    assert differences(before, trainer.codec.state_dict())
    assert "speech/mel_distance" in scores
    assert metric_lines(trainer)[-1]["codebook/1/perplexity"] == 5
    resumed = tiny_trainer(tmp_path, codec=outside_codec(), adversarial=adversarial(), max_steps=3)
    assert resumed.resume()
    assert differences(resumed.codec.state_dict(), trainer.codec.state_dict()) == []


def test_gradnorm_measures_at_an_output_layer_from_outside(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=outside_codec())
    weights = {"l1": 1.0, "mel": 1.0}
    trainer.balancer = Balancer(weights, GradNorm("last_layer"), Sum(), Keep(), monitor_every=0)
    metrics = take_steps(trainer, 2)
    assert metrics[1]["weight/l1"] != metrics[1]["weight/mel"]


def test_the_gradient_at_a_linear_output_layer_is_autograds(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=outside_codec())
    output = trainer.codec(trainer.data.batch(0))
    gradient = torch.randn(output.audio.shape)
    found = trainer.shared_gradients.at(output)(gradient, "last_layer")
    (expected,) = torch.autograd.grad(output.audio, [trainer.codec.decoder.output_layer.weight], gradient)
    torch.testing.assert_close(found, expected.flatten())


def test_pca_initialization_of_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"FrameNetwork.*trainer.init=random"):
        tiny_trainer(tmp_path, codec=outside_codec(), init="pca").run()
