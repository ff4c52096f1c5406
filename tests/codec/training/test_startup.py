"""Initialization from the first batches, and an encoder with its own learning rate that is frozen later."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from codec.model_file import make_codec
from codec.training import Trainer
from codec.training.config import CodebookConfig
from data import Segment, SegmentDataset
from tiny_run import (
    copied,
    differences,
    initialized,
    interrupt_at,
    messages,
    metric_lines,
    take_steps,
    tidied,
    tiny_adversarial,
    tiny_codec,
    tiny_trainer,
)


@pytest.fixture(autouse=True)
def _tidied() -> Iterator[None]:
    with tidied():
        yield


def scores_before_the_first_step(trainer: Trainer) -> float:
    trainer.run()
    first = metric_lines(trainer, "validation")[0]
    assert first["step"] == 0
    return float(first["speech/si_sdr_db"])


def test_pca_initialization_reconstructs_the_clips_before_the_first_step(tmp_path: Path) -> None:
    random = scores_before_the_first_step(tiny_trainer(tmp_path / "random"))
    transform = scores_before_the_first_step(tiny_trainer(tmp_path / "pca", init="pca"))
    assert random < -20 < -3 < transform


def test_codec_and_average_have_the_same_initial_weights(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, init="pca")
    interrupt_at(trainer, 0)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert trainer.codec.quantizer.initialized
    assert differences(trainer.codec.state_dict(), trainer.averaged_codec.state_dict()) == []
    assert differences(trainer.codec.state_dict(), tiny_codec().state_dict()) != []


def test_a_resumed_run_is_not_initialized_again(tmp_path: Path) -> None:
    whole = tiny_trainer(tmp_path / "whole", init="pca", encoder_lr_factor=0.1)
    whole.run()
    stopped = tiny_trainer(tmp_path / "stopped", init="pca", encoder_lr_factor=0.1)
    interrupt_at(stopped, 4)
    take_steps_until_interrupted(stopped)
    resumed = tiny_trainer(tmp_path / "stopped", init="pca", encoder_lr_factor=0.1)
    resumed.run()
    assert differences(resumed.codec.state_dict(), whole.codec.state_dict()) == []


def take_steps_until_interrupted(trainer: Trainer) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    trainer.save(None)


def test_a_learning_rate_factor_of_zero_freezes_the_encoder(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=initialized(tiny_codec()), encoder_lr_factor=0.0)
    before = copied(trainer.codec.state_dict())
    take_steps(trainer, 2)
    after = trainer.codec.state_dict()
    moved = {name.split(".")[0] for name in differences(before, after)}
    assert moved == {"/decoder", "/quantizer"}
    assert all(parameter.grad is None for parameter in trainer.codec.encoder.parameters())


@pytest.mark.parametrize("rate", [0.1, 3.0])
def test_the_encoder_has_its_own_learning_rate(tmp_path: Path, rate: float) -> None:
    """Adam's first step is the learning rate in every weight that has a gradient well above its epsilon."""
    trainer = tiny_trainer(tmp_path, codec=initialized(tiny_codec()), encoder_lr_factor=rate)
    before = copied(trainer.codec.state_dict())
    take_steps(trainer, 1)
    moved = {name: (tensor - before[name]).abs() for name, tensor in trainer.codec.named_parameters()}
    for part, expected in (("encoder", 1e-3 * rate), ("decoder", 1e-3)):
        steps = torch.cat([step.flatten() for name, step in moved.items() if name.startswith(part)])
        torch.testing.assert_close(steps.median().item(), expected, rtol=0.01, atol=0)


def test_the_commitment_loss_of_a_frozen_encoder_has_no_gradient(tmp_path: Path) -> None:
    codec = initialized(tiny_codec())
    trainer = tiny_trainer(
        tmp_path, codec=codec, encoder_lr_factor=0.0, codebooks=CodebookConfig(commitment_weight=5.0)
    )
    metrics = take_steps(trainer, 1)[0]
    assert float(metrics["commitment"]) > 0
    assert "commitment_ratio" not in metrics


def test_the_encoder_is_frozen_and_the_codebooks_are_initialized_again(tmp_path: Path) -> None:
    """After three of six steps, with averaged weights and codebooks of their latents."""
    trainer = tiny_trainer(tmp_path, init="pca", freeze_encoder_at=0.5)
    seen: dict[int, dict[str, Tensor]] = {}
    step = trainer.train_step

    def look(audio: Tensor) -> dict[str, Tensor]:
        seen[trainer.step] = copied(trainer.codec.state_dict())
        return step(audio)

    trainer.train_step = look  # type: ignore[method-assign]
    trainer.run()
    encoders = [{name: value for name, value in seen[i].items() if name.startswith("encoder")} for i in range(6)]
    assert differences(encoders[1], encoders[2]) != []
    assert differences(encoders[3], encoders[5]) == []
    now = trainer.codec
    assert differences(now.encoder.state_dict(), trainer.averaged_codec.encoder.state_dict()) == []
    assert all(parameter.grad is None for parameter in now.encoder.parameters())
    assert any(parameter.requires_grad for parameter in now.decoder.parameters())
    started = [message for message in messages(trainer) if message.startswith("codebooks initialized")]
    assert [message.split()[4] for message in started] == ["0", "3"]
    anew = make_codec(now.config.to_dict())
    anew.load_state_dict(seen[3])
    batches = [trainer.data.batch(3 + i) for i in range(trainer.config.codebooks.init_batches)]
    anew.quantizer.initialize(
        torch.cat([anew.encode_latent(batch).transpose(1, 2).flatten(0, 1) for batch in batches]).detach()
    )
    torch.testing.assert_close(anew.quantizer.embed, seen[3]["quantizer.embed"])


@pytest.mark.parametrize("stop", [2, 5])
def test_a_run_interrupted_before_or_after_freezing_ends_with_the_same_bits(tmp_path: Path, stop: int) -> None:
    def make(name: str) -> Trainer:
        return tiny_trainer(tmp_path / name, init="pca", freeze_encoder_at=0.5)

    whole, stopped, resumed = make("whole"), make("stopped"), make("stopped")
    whole.run()
    interrupt_at(stopped, stop)
    take_steps_until_interrupted(stopped)
    assert stopped.encoder.frozen == (stop == 5)
    resumed.run()
    assert differences(resumed.codec.state_dict(), whole.codec.state_dict()) == []
    assert sum(message.startswith("codebooks initialized") for message in messages(resumed)) == (stop == 2)


def test_loading_an_earlier_state_unfreezes_the_encoder(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=initialized(tiny_codec()), freeze_encoder_at=0.5)
    take_steps(trainer, 2)
    before = copied(trainer.state_dict())
    take_steps(trainer, 1)
    trainer._freeze_encoder()
    assert trainer.encoder.frozen
    assert not any(parameter.requires_grad for parameter in trainer.codec.encoder.parameters())
    trainer.load_state_dict(before)
    assert not trainer.encoder.frozen
    assert all(parameter.requires_grad for parameter in trainer.codec.encoder.parameters())


def test_the_encoder_is_frozen_until_a_share_of_the_run(tmp_path: Path) -> None:
    """Its weights change from the third of six steps on. The codebooks are not initialized again."""
    trainer = tiny_trainer(tmp_path, freeze_encoder_until=0.4)
    weights: list[Tensor] = []
    step = trainer.train_step

    def look(audio: Tensor) -> dict[str, Tensor]:
        weights.append(nn.utils.parameters_to_vector(trainer.codec.encoder.parameters()).detach())
        return step(audio)

    trainer.train_step = look  # type: ignore[method-assign]
    trainer.run()
    changes = [not torch.equal(weights[i], weights[i + 1]) for i in range(5)]
    assert changes == [False, False, False, True, True]
    assert "encoder trained from step 3" in messages(trainer)
    assert sum(message.startswith("codebooks initialized") for message in messages(trainer)) == 1


@pytest.mark.parametrize("stop", [1, 5])
def test_a_run_interrupted_before_or_after_unfreezing_ends_with_the_same_bits(tmp_path: Path, stop: int) -> None:
    whole, stopped, resumed = (
        tiny_trainer(tmp_path / name, freeze_encoder_until=0.4) for name in ("whole", "stopped", "stopped")
    )
    whole.run()
    interrupt_at(stopped, stop)
    take_steps_until_interrupted(stopped)
    assert stopped.encoder.frozen == (stop == 1)
    resumed.run()
    assert differences(resumed.codec.state_dict(), whole.codec.state_dict()) == []


def test_an_encoder_frozen_from_the_start_is_not_frozen_again(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, init="pca", encoder_lr_factor=0.0, freeze_encoder_at=0.5)
    trainer.run()
    assert not any("encoder frozen" in message for message in messages(trainer))
    assert sum(message.startswith("codebooks initialized") for message in messages(trainer)) == 1


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the segments that are read."""
    read: list[int] = []
    get = SegmentDataset.__getitem__

    def record(dataset: SegmentDataset, index: int) -> Segment:
        read.append(index)
        return get(dataset, index)

    monkeypatch.setattr(SegmentDataset, "__getitem__", record)
    return read


def test_the_loader_reads_the_audio_for_losses_of_constants_and_codebooks_once(tmp_path: Path, read: list[int]) -> None:
    trainer = tiny_trainer(tmp_path, codebooks=CodebookConfig(init_batches=9))
    trainer.startup.constant_baselines(trainer.losses, 0)
    assert read == list(range(16))
    trainer._initialize_codebooks()
    assert read == list(range(18))


def test_the_loader_reads_the_audio_for_the_first_weights_and_codebooks_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[int]
) -> None:
    trainer = tiny_trainer(tmp_path, init="pca", codebooks=CodebookConfig(init_batches=3))
    trainer._start(resumed=False)
    assert read == list(range(6))
    monkeypatch.setattr(trainer.data.__class__, "batch", None)  # that would read in the training process
    trainer.codec.quantizer.reset()
    trainer._initialize_codebooks()
    assert read == [*range(6), *range(6)]  # the audio is not kept after the start


def test_the_first_lines_name_device_batch_length_and_sizes(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, adversarial=tiny_adversarial(), max_steps=7)
    trainer._start(resumed=False)
    lines = dict(message.split(": ", 1) for message in messages(trainer) if ": " in message)
    assert lines["device"].startswith("cpu (")
    assert lines["device"].endswith("1 thread)")
    assert lines["precision"] == "float32, as requested"
    assert lines["batch"] == "2 x 0.2 s, 0 workers"
    assert lines["length"] == "7 steps (0.7 passes over the audio)"
    assert lines["parameters"] == "codec 0.01 M, discriminator 0.00 M"
    assert lines["codebook initialization"] == "latents of 0:03 min of audio"
    assert lines["k-means"] == "4 codebooks, 640 latent vectors"
    assert lines["validation"] == "2 held-out clips"
