"""Quantizers whose weights are learned by gradient: training, resuming, freezing, and files of the trained codec."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
import torch

from codec import Codec, SEANet, decode_file, encode_file, load
from codec.audio import write_audio
from codec.quantization import FactorizedQuantizer, FiniteScalarQuantizer, SimVQ, rotation
from tiny_run import RATE, differences, metric_lines, tidied, tiny_adversarial, tiny_trainer, tones

SIZES = {"factorized": 13, "simvq": 13, "fsq": 15}
kinds = pytest.mark.parametrize("kind", SIZES)


@pytest.fixture(autouse=True)
def _tidied() -> Iterator[None]:
    with tidied():
        yield


def codec_of(kind: str) -> Codec:
    """Four codebooks of `SIZES[kind]` codes in 4 bits, at 0.8 kbps each."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SEANet(filters=4, strides=(2, 4, 5), latent_dim=16, lstm_layers=0, padding="constant")
        quantizer = {
            "factorized": lambda: FactorizedQuantizer(latent_dim=16, num_codebooks=4, codebook_size=13, codebook_dim=3),
            "simvq": lambda: SimVQ(latent_dim=16, num_codebooks=4, codebook_size=13, estimator=rotation),
            "fsq": lambda: FiniteScalarQuantizer(latent_dim=16, levels=[5, 3], num_groups=2, num_codebooks=4),
        }[kind]()
        return Codec(network, quantizer, sample_rate=RATE, bandwidths_kbps=[0.8, 1.6, 3.2])


@pytest.mark.slow
@kinds
def test_training_moves_all_weights_and_resumes_to_the_bit(kind: str, tmp_path: Path) -> None:
    whole = tiny_trainer(tmp_path / "whole", codec=codec_of(kind), adversarial=tiny_adversarial(), max_steps=4)
    whole.run()
    assert whole.skipped.total == 0
    before = dict(codec_of(kind).named_parameters())
    assert all(not torch.equal(weight, before[name]) for name, weight in whole.codec.named_parameters())
    part = tiny_trainer(tmp_path, codec=codec_of(kind), adversarial=tiny_adversarial(), max_steps=2)
    part.run()
    resumed = tiny_trainer(tmp_path, codec=codec_of(kind), adversarial=tiny_adversarial(), max_steps=4)
    resumed.run()
    assert resumed.step == 4
    states = whole.state_dict(), resumed.state_dict()
    for name in ("codec", "average", "optimizer", "adversarial", "adversarial_optimizer", "balancer", "random"):
        assert differences(*(state[name] for state in states)) == []


@kinds
def test_a_frozen_encoder_and_quantizer_keep_all_their_state(kind: str, tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=codec_of(kind), max_steps=2, freeze=["encoder", "quantizer"])
    trainer.run()
    before, after = codec_of(kind).state_dict(), trainer.codec.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("decoder.")}


@kinds
def test_the_metrics_describe_the_codebooks(kind: str, tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=codec_of(kind), max_steps=2, log_every=1)
    trainer.run()
    last = [line for line in metric_lines(trainer) if line["split"] == "train"][-1]
    assert last["codebook_size"] == SIZES[kind]
    assert 1 <= last["codebook/1/perplexity"] <= SIZES[kind] + 1e-4  # rounding of the exponential
    assert last["commitment"] > 0


@kinds
@pytest.mark.parametrize("coding", ["fixed", "adaptive"])
def test_files_of_the_trained_codec_round_trip(kind: str, coding: str, tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=codec_of(kind), max_steps=1)
    trainer.run()
    model = load(tmp_path / "run" / "model.safetensors")
    write_audio(tmp_path / "in.wav", tones(1, RATE)[0], RATE)
    encode_file(tmp_path / "in.wav", model=model, coding=coding)
    decode_file(tmp_path / "in.ecdc", tmp_path / "back.wav", model)
    audio, decoded = (
        torch.from_numpy(soundfile.read(tmp_path / name, dtype="float32")[0]) for name in ("in.wav", "back.wav")
    )
    codes = model.encode(audio[None, None], RATE)
    assert codes.amax() < SIZES[kind]
    expected = model.decode(codes, RATE)[0, 0]
    torch.testing.assert_close(decoded, expected.clamp(-1, 1 - 2**-15), rtol=0, atol=2**-16 + 1e-5)
