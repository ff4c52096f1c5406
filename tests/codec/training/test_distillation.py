"""Losses of a frozen teacher: against their formulas, teachers of every kind, and training."""

from pathlib import Path

import pytest
import torch

from codec.model_file import ModelFileError, save_model
from codec.training import TeacherLatent, TeacherOutput
from losses import L1, MultiScaleMel
from tiny_run import (
    RATE,
    SAMPLES,
    copied,
    differences,
    initialized,
    plain_losses,
    take_steps,
    tidied,
    tiny_codec,
    tiny_trainer,
    tones,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    codec = initialized(tiny_codec(5))
    save_model(codec, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_the_distance_is_to_the_output_of_the_teacher(path: Path) -> None:
    teacher = initialized(tiny_codec(5)).eval()
    estimate, reference = tones(2, SAMPLES, 1).requires_grad_(), tones(2, SAMPLES, 2)
    for kbps in (None, 1.6):
        loss = TeacherOutput(str(path), RATE, L1(), bandwidth_kbps=kbps)
        target = teacher.decode_segments(teacher.encode_segments(reference, kbps), SAMPLES)
        value = loss(estimate, reference)
        torch.testing.assert_close(value, (estimate - target).abs().mean())
        (gradient,) = torch.autograd.grad(value, estimate)
        torch.testing.assert_close(gradient, (estimate - target).sign() / estimate.numel(), rtol=1e-3, atol=1e-9)


def test_latents_are_compared_relative_to_those_of_the_reference(path: Path) -> None:
    teacher = initialized(tiny_codec(5)).eval()
    loss = TeacherLatent(str(path), RATE)
    estimate, reference = tones(2, SAMPLES, 1).requires_grad_(), tones(2, SAMPLES, 2)
    latents = teacher.encode_latent(estimate), teacher.encode_latent(reference).detach()
    value = loss(estimate, reference)
    expected = (latents[0] - latents[1]).abs().mean() / latents[1].abs().mean()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, estimate), torch.autograd.grad(expected, estimate))
    assert float(loss(reference, reference)) == 0


def test_windows_are_those_of_the_distance(path: Path) -> None:
    mel = MultiScaleMel(RATE, [5, 6], mels=16)
    loss = TeacherOutput(str(path), RATE, mel)
    assert (loss.minimum_samples, loss.window_samples) == (mel.minimum_samples, mel.window_samples)


def test_the_teacher_is_frozen_and_no_part_of_the_state(path: Path, tmp_path: Path) -> None:
    with tidied():
        losses = plain_losses() | {
            "output": TeacherOutput(str(path), RATE, plain_losses()["mel"]),
            "latent": TeacherLatent(str(path), RATE),
        }
        trainer = tiny_trainer(tmp_path / "student", codec=initialized(tiny_codec()), losses=losses)
        before = copied(losses["latent"].state_dict())
        student = copied(trainer.codec.state_dict())
        metrics = take_steps(trainer, 2)
        assert all(float(metrics[-1][f"loss/{name}"]) > 0 for name in ("output", "latent"))
        assert differences(before, losses["latent"].state_dict()) == []
        assert differences(student, trainer.codec.state_dict())
        assert not any(parameter.requires_grad for loss in losses.values() for parameter in loss.parameters())
        assert not any("teacher" in name for name in trainer.state_dict())


def test_a_run_and_its_checkpoint_are_teachers(tmp_path: Path) -> None:
    with tidied():
        trainer = tiny_trainer(tmp_path, max_steps=2)
        trainer.run()
        audio = tones(2, SAMPLES, 1), tones(2, SAMPLES, 2)
        run = tmp_path / "run"
        checkpoint = sorted((run / "checkpoints").glob("step*.pt"))[-1]
        values = [float(TeacherLatent(str(source), RATE)(*audio)) for source in (run, checkpoint)]
        assert values[0] == pytest.approx(values[1], rel=0.02)  # the model file has float16 weights
        assert values[0] > 0


def test_a_teacher_of_another_rate_or_none_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"codes audio at 8000 Hz, expected the 24000 Hz of codec.sample_rate"):
        TeacherLatent(str(path), 24000)
    with pytest.raises(ValueError, match=r"the teacher general codes audio at 24000 Hz"):
        TeacherLatent("general", RATE)
    with pytest.raises(ModelFileError, match="no model at"):
        TeacherOutput(str(tmp_path / "nowhere"), RATE, L1())
    with pytest.raises(ValueError, match="a bitrate of 9 kbps"):
        TeacherOutput(str(path), RATE, L1(), bandwidth_kbps=9)
