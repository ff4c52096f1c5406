"""Training of a decoder with noise: two outputs for each segment, the same noise after a resumption and in parts."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from codec.model import Codec
from codec.network import ISTFTNetwork
from codec.quantization import ResidualVectorQuantizer
from codec.training import Trainer
from data import Batch
from losses import EnergyDistance
from tiny_run import differences, interrupt_at, plain_losses, take_steps, tidied, tiny_trainer


def trainer(folder: Path, **settings: object) -> Trainer:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    network = ISTFTNetwork(
        hop_samples=40, latent_dim=8, encoder_window_samples=160, encoder_width=12, encoder_depth=1,
        decoder_window_samples=160, decoder_width=12, decoder_depth=1, decoder_noise_channels=4,
    )  # fmt: skip
    quantizer = ResidualVectorQuantizer(latent_dim=8, num_codebooks=4, codebook_size=16, dead_code_threshold=0.0)
    codec = Codec(network, quantizer, sample_rate=8000, bandwidths_kbps=[0.8, 3.2])
    losses = {"energy": EnergyDistance(plain_losses()["mel"])}
    return tiny_trainer(folder, codec=codec, losses=losses, outputs_per_segment=2, **settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run_with_noise_resumes_to_the_bit(tmp_path: Path) -> None:
    with tidied():
        settings = {"checkpoint_every": 2, "validate_every": 6}
        straight, interrupted = trainer(tmp_path / "a", **settings), trainer(tmp_path / "b", **settings)
        straight.run()
        interrupt_at(interrupted, 3)
        with pytest.raises(KeyboardInterrupt):
            interrupted.run()
        resumed = trainer(tmp_path / "b", **settings)
        resumed.run()
        assert differences(straight.codec.state_dict(), resumed.codec.state_dict()) == []


def test_both_passes_of_a_batch_in_parts_have_the_same_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tidied():
        training = trainer(tmp_path, accumulate=2)
        audio = training.data.batch(0).repeat_interleave(2, 0)
        outputs: list[Tensor] = []
        training.codec.decoder.register_forward_hook(lambda _, __, output: outputs.append(output.detach()))
        training.train_step(audio)
        first, second = outputs[:2], outputs[2:]
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert not torch.equal(first[0][0], first[0][1])  # the outputs of a pair differ
        assert training.is_stochastic
        before = torch.get_rng_state()
        take_steps(training, 1)
        assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_has_each_segment_twice_and_the_average_is_in_eval_mode(tmp_path: Path) -> None:
    with tidied():
        training = trainer(tmp_path)
        audio = training.data.batch(0)
        assert torch.equal(training._receive(Batch(audio, ())), torch.stack([audio[0], audio[0], audio[1], audio[1]]))
        assert not any(module.training for module in training.averaged_codec.decoder.modules())
        assert all(module.training for module in training.codec.modules())
        training.codec.quantizer.initialize(torch.randn(64, 8))
        codes = training.averaged_codec.encode(audio, 8000)
        decoded = [training.averaged_codec.decode(codes) for _ in range(2)]
        assert torch.equal(*decoded)
