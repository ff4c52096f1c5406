"""A training step equals a plain loop, non-finite steps change nothing, and schedules are followed."""

import math
from collections.abc import Callable, Collection, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from codec.model import Codec
from codec.model_file import fingerprint, load_model
from codec.training import (
    CodebookConfig,
    LRSchedule,
    RollbackConfig,
    Trainer,
    TrainingError,
)
from codec.training import trainer as trainer_module
from codec.training.schedule import LRScheduler
from data import Batch
from tiny_run import (
    ADAM,
    ADVERSARIAL,
    RATE,
    SAMPLES,
    Faulty,
    copied,
    differences,
    initialized,
    interrupt_at,
    messages,
    metric_lines,
    plain_losses,
    take_steps,
    tidied,
    tiny_adversarial,
    tiny_codec,
    tiny_trainer,
    tones,
)

Update = Literal["simultaneous", "alternating"]
NEVER: dict[str, Any] = {"log_every": 1000, "validate_every": 1000, "checkpoint_every": 1000}


@pytest.fixture(autouse=True)
def _tidied() -> Iterator[None]:
    with tidied():
        yield


def _networks(trainer: Trainer) -> dict[str, Any]:
    """State that a skipped step must not change."""
    counting = ("balancer", "skipped")
    kept = {name: copied(part.state_dict()) for name, part in trainer._parts().items() if name not in counting}
    # The learning rate is set before the step is known to be finite.
    return {k: v["state"] if k.endswith("optimizer") else v for k, v in kept.items()}


# ------------------------------------------------------------------------------------------------ a step


def _plain_step(
    codec: Codec,
    discriminator: nn.Module,
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    audio: Tensor,
    update: Update,
    commitment: float,
) -> None:
    """A step without a balancer: one sum of all losses and one backward pass."""
    codec_optimizer, discriminator_optimizer = optimizers
    y, _, quantized = codec(audio)

    def update_discriminator() -> None:
        fake, real = discriminator(y.detach()).logits, discriminator(audio).logits
        loss = sum((1 + f).relu().mean() + (1 - r).relu().mean() for f, r in zip(fake, real, strict=True)) / len(fake)
        discriminator_optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        discriminator_optimizer.step()

    if update == "alternating":
        update_discriminator()
    fake, real = discriminator(y), discriminator(audio)
    terms = {name: loss(y, audio) for name, loss in plain_losses().items()}
    terms["adversarial"] = torch.stack([(1 - logit).relu().mean() for logit in fake.logits]).mean()
    terms["feature_matching"] = torch.stack(
        [
            (f - r.detach()).abs().mean() / r.detach().abs().mean()
            for fs, rs in zip(fake.features, real.features, strict=True)
            for f, r in zip(fs, rs, strict=True)
        ]
    ).mean()
    total = terms["l1"] + terms["mel"] + 2 * terms["feature_matching"] + terms["adversarial"]
    codec_optimizer.zero_grad()
    (total + commitment * quantized.commitment.mean()).backward()
    codec_optimizer.step()
    if update == "simultaneous":
        update_discriminator()

    # Moving averages of the codebooks, decay 0.9, one code at a time.
    quantizer = codec.quantizer
    for k in range(4):
        for code in range(16):
            given = quantized.residuals[k][quantized.codes[:, k].flatten() == code]
            quantizer.cluster_size[k, code] = 0.9 * quantizer.cluster_size[k, code] + 0.1 * len(given)
            quantizer.embed_sum[k, code] = 0.9 * quantizer.embed_sum[k, code] + 0.1 * given.sum(0)
            if quantizer.cluster_size[k, code] > 0:
                quantizer.embed[k, code] = quantizer.embed_sum[k, code] / quantizer.cluster_size[k, code]
    quantizer.updates += 1


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_steps_equal_a_plain_loop(tmp_path: Path, update: Update) -> None:
    trainer = tiny_trainer(
        tmp_path,
        codec=initialized(tiny_codec()),
        adversarial=tiny_adversarial(update=update),
        codebooks=CodebookConfig(dropout="none", commitment_weight=0.25),
        monitor_every=2,  # monitoring steps compute the weighted sum in another way
    )
    assert trainer.adversarial is not None
    codec, discriminator = deepcopy(trainer.codec), deepcopy(trainer.adversarial.discriminator)
    # A large epsilon keeps Adam from blowing up the rounding of gradients that are almost zero.
    for group in (g for each in trainer.optimizers for g in each.param_groups):
        group["eps"] = 1e-3
    optimizers = (ADAM(codec.parameters(), eps=1e-3), ADAM(discriminator.parameters(), eps=1e-3))
    begun = deepcopy(codec.state_dict())
    average: list[Tensor] = []
    for step in range(3):
        _plain_step(codec, discriminator, optimizers, trainer.data.batch(step), update, 0.25)
        now = [parameter.detach().double() for parameter in codec.parameters()]
        average = [0.9 * a + 0.1 * b for a, b in zip(average, now, strict=True)] if average else now
    take_steps(trainer, 3)

    for own, plain in ((trainer.codec, codec), (trainer.adversarial.discriminator, discriminator)):
        for name, tensor in plain.state_dict().items():
            torch.testing.assert_close(own.state_dict()[name], tensor, rtol=1e-4, atol=2e-6, msg=name)
    for own_average, wanted in zip(trainer.averaged_codec.parameters(), average, strict=True):
        torch.testing.assert_close(own_average.double(), wanted, rtol=1e-4, atol=2e-6)
    # The weights changed by far more than the tolerance.
    moved = [(begun[name] - p).abs().max().item() for name, p in trainer.codec.named_parameters()]
    assert max(moved) > 1e-4


def test_the_averaged_codec_has_the_current_codebooks(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=initialized(tiny_codec()))
    take_steps(trainer, 2)
    assert trainer.averaged_codec.quantizer is trainer.codec.quantizer
    assert differences(
        copied(dict(trainer.codec.encoder.named_parameters())),
        copied(dict(trainer.averaged_codec.encoder.named_parameters())),
    )


@pytest.mark.parametrize("encodec", [False, True])
def test_the_codec_is_traversed_once_forward_and_once_backward(
    tmp_path: Path, encodec: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer(
        tmp_path, codec=initialized(tiny_codec()), adversarial=tiny_adversarial(), encodec=encodec, monitor_every=1
    )
    passes: list[str] = []
    backward = torch.autograd.backward

    def count(tensors: Any, *args: Any, **kwargs: Any) -> None:
        passes.append("discriminator" if "inputs" in kwargs else "backward")
        backward(tensors, *args, **kwargs)

    def forward_hook(module: nn.Module, args: Any, features: Tensor) -> None:
        passes.append("encoder forward")
        features.register_hook(lambda gradient: passes.append("encoder backward"))

    trainer.codec.encoder.layers[0].register_forward_hook(forward_hook)
    monkeypatch.setattr(torch.autograd, "backward", count)
    take_steps(trainer, 1)
    assert passes == ["encoder forward", "discriminator", "backward", "encoder backward"]


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_discriminator_updates_do_not_change_the_codec(tmp_path: Path, update: Update) -> None:
    """With adversarial losses of weight 0 the codec equals one trained without a discriminator to the bit."""
    zero = dict.fromkeys(plain_losses(), 1.0) | dict.fromkeys(ADVERSARIAL, 0.0)
    with_one = tiny_trainer(tmp_path / "a", adversarial=tiny_adversarial(update=update), weights=zero)
    without = tiny_trainer(tmp_path / "b")
    assert with_one.adversarial is not None
    before = copied(with_one.adversarial.state_dict())
    for trainer in (with_one, without):
        trainer._initialize_codebooks()
        take_steps(trainer, 3)
    assert differences(with_one.codec.state_dict(), without.codec.state_dict()) == []
    assert differences(before, with_one.adversarial.state_dict())


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_the_codecs_losses_do_not_change_the_discriminator(tmp_path: Path, update: Update) -> None:
    states = []
    for number, weight in enumerate((1.0, 100.0)):
        weights = dict.fromkeys(plain_losses(), 1.0) | dict.fromkeys(ADVERSARIAL, weight)
        trainer = tiny_trainer(tmp_path / str(number), adversarial=tiny_adversarial(update=update), weights=weights)
        assert trainer.adversarial is not None
        take_steps(trainer, 1)
        assert all(parameter.grad is None for parameter in trainer.adversarial.parameters())
        states.append(copied(trainer.adversarial.state_dict()))
    assert differences(*states) == []


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_the_discriminator_is_updated_with_its_probability(tmp_path: Path, update: Update) -> None:
    trainer = tiny_trainer(tmp_path, adversarial=tiny_adversarial(update=update, update_probability=0.5), max_steps=99)
    assert trainer.adversarial is not None
    updated, wanted = [], []
    for step in range(12):
        generator = trainer.config.step_generator(step)
        torch.rand((), generator=generator)  # the number of codebooks
        wanted.append(torch.rand((), generator=generator).item() < 0.5)
        before = copied(trainer.adversarial.state_dict())
        (metrics,) = take_steps(trainer, 1)
        updated.append(bool(differences(before, trainer.adversarial.state_dict())))
        assert ("discriminator/loss" in metrics) is updated[-1]
    assert updated == wanted
    assert 2 < sum(updated) < 10


def test_the_discriminator_is_used_from_its_start_fraction_on(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, adversarial=tiny_adversarial(start_fraction=0.5), max_steps=6)
    metrics = take_steps(trainer, 6)
    assert ["loss/adversarial" in values for values in metrics] == [False] * 3 + [True] * 3
    assert ["discriminator/loss" in values for values in metrics] == [False] * 3 + [True] * 3
    assert metrics[0]["weight/adversarial"] == 0


def test_clipping_bounds_the_gradient_and_the_reported_norm_is_unclipped(tmp_path: Path) -> None:
    norms = []
    for gradient_clip_norm in (None, 1e-3):
        trainer = tiny_trainer(tmp_path / str(gradient_clip_norm), gradient_clip_norm=gradient_clip_norm)
        trainer.optimizer = torch.optim.SGD(trainer.codec.parameters(), lr=1.0)
        trainer.optimizers = [trainer.optimizer]
        trainer.lr_scheduler = LRScheduler(LRSchedule(), trainer.optimizers)
        before = [parameter.detach().clone() for parameter in trainer.codec.parameters()]
        (metrics,) = take_steps(trainer, 1)
        # The step of gradient descent at rate 1 is the gradient.
        moves = [(a - b).norm() for a, b in zip(before, trainer.codec.parameters(), strict=True)]
        norms.append((metrics["gradient_norm"].item(), torch.stack(moves).norm().item()))
    assert norms[0][0] == norms[1][0]
    assert norms[0][1] == pytest.approx(norms[0][0], rel=1e-3)
    assert norms[0][0] > 0.1
    assert norms[1][1] == pytest.approx(1e-3, rel=1e-2)


def test_a_step_does_not_use_the_global_generator(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, adversarial=tiny_adversarial(update_probability=0.5))
    assert not trainer.is_stochastic
    before = torch.get_rng_state()
    trainer.run()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_codec_fits_a_fixed_batch(tmp_path: Path) -> None:
    codec = tiny_codec(strides=[2, 4], bandwidths_kbps=[8, 16])
    trainer = tiny_trainer(tmp_path, codec=codec, max_steps=60, codebooks=CodebookConfig(start_fraction=0.99))
    trainer.optimizer.param_groups[0]["lr"] = 5e-3
    trainer.lr_scheduler = LRScheduler(LRSchedule(), trainer.optimizers)
    audio = tones(2, SAMPLES)
    history = []
    for _ in range(60):
        history.append(trainer.train_step(audio))
        trainer.step += 1
    assert history[-1]["loss/l1"] < 0.6 * history[0]["loss/l1"]
    assert history[-1]["loss/mel"] < 0.4 * history[0]["loss/mel"]


# ------------------------------------------------------------------------------------------------ codebooks


def test_latents_are_not_quantized_before_the_codebooks_are_initialized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer(
        tmp_path,
        codebooks=CodebookConfig(start_fraction=0.5, init_batches=3, dropout="none"),
        log_every=1,
    )
    initialize, calls = trainer.codec.quantizer.initialize, []

    def count(vectors: Tensor, seed: int, batches: int, advance: Callable[[], None]) -> None:
        calls.append((trainer.step, tuple(vectors.shape), batches))
        initialize(vectors, seed, batches, advance)

    quantized: list[bool] = []
    monkeypatch.setattr(trainer.codec.quantizer, "initialize", count)
    trainer.codec.register_forward_hook(lambda module, args, output: quantized.append(output.quantized is not None))
    trainer.run()
    assert calls == [(3, (3 * 2 * 40, 16), 3)]
    assert quantized == [False] * 3 + [True] * 3
    assert [line["commitment"] > 0 for line in metric_lines(trainer)] == [False] * 3 + [True] * 3
    assert ["codebook/3/perplexity" in line for line in metric_lines(trainer)] == [False] * 3 + [True] * 3
    assert int(trainer.codec.quantizer.updates) == 3


def test_only_the_drawn_number_of_codebooks_is_used(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=initialized(tiny_codec()), max_steps=99)
    used: list[int] = []
    trainer.codec.register_forward_hook(lambda module, args, output: used.append(output.quantized.codes.shape[1]))
    metrics = take_steps(trainer, 12)
    wanted = [
        trainer.config.codebooks.draw(trainer.codec.config, trainer.config.step_generator(step)) for step in range(12)
    ]
    assert used == wanted
    assert [int(values["num_codebooks"]) for values in metrics] == wanted
    assert set(used) == {1, 2, 4}  # 0.8, 1.6 and 3.2 kbps


def test_the_commitment_loss_reaches_the_encoder_with_its_weight(tmp_path: Path) -> None:
    """The only other loss has a zero gradient. The mean over 4 codebooks is a quarter of the sum."""
    norms = []
    for number, over in enumerate(("mean", "sum")):
        plan = CodebookConfig(dropout="none", commitment_reduction=over)  # type: ignore[arg-type]
        trainer = tiny_trainer(
            tmp_path / str(number), codec=initialized(tiny_codec()), codebooks=plan, losses={"l1": Faulty({0: 0.0})}
        )
        (metrics,) = take_steps(trainer, 1)
        norms.append(metrics["gradient_norm"].item())
    assert norms[0] > 0
    assert norms[1] == pytest.approx(4 * norms[0], rel=1e-4)


# ------------------------------------------------------------------------------------------------ not finite


@pytest.mark.parametrize("encodec", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_loss_changes_nothing(tmp_path: Path, value: float, encodec: bool) -> None:
    losses = {"l1": Faulty({2: value}), "mel": plain_losses()["mel"]}
    trainer = tiny_trainer(
        tmp_path, losses=losses, codec=initialized(tiny_codec()), adversarial=tiny_adversarial(), encodec=encodec
    )
    take_steps(trainer, 2)
    before = _networks(trainer)
    assert take_steps(trainer, 1) == [{}]
    assert differences(before, _networks(trainer)) == []
    assert all(parameter.grad is None for parameter in trainer.codec.parameters())
    assert (trainer.skipped.total, trainer.skipped.in_a_row) == (1, 1)
    assert any("step 2 skipped" in message and "l1" in message for message in messages(trainer))

    (metrics,) = take_steps(trainer, 1)
    assert all(value.isfinite() for value in metrics.values())
    moved = {place.split("/")[1] for place in differences(before, _networks(trainer))}
    assert moved == {"codec", "average", "optimizer", "adversarial", "adversarial_optimizer"}
    assert (trainer.skipped.total, trainer.skipped.in_a_row) == (1, 0)


@pytest.mark.parametrize("encodec", [False, True])
def test_a_finite_loss_with_a_nan_gradient_changes_nothing(tmp_path: Path, encodec: bool) -> None:
    losses = {"l1": Faulty(gradient=[1]), "mel": plain_losses()["mel"]}
    trainer = tiny_trainer(
        tmp_path, losses=losses, codec=initialized(tiny_codec()), adversarial=tiny_adversarial(), encodec=encodec
    )
    take_steps(trainer, 1)
    before = _networks(trainer)
    assert take_steps(trainer, 1) == [{}]
    assert differences(before, _networks(trainer)) == []
    culprit = "l1" if encodec else "the codec's gradient"
    assert messages(trainer)[-1] == f"step 1 skipped: not finite: {culprit}"
    (metrics,) = take_steps(trainer, 1)
    assert metrics
    assert differences(before, _networks(trainer))


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_audio_changes_nothing(tmp_path: Path, bad: float, update: Update) -> None:
    trainer = tiny_trainer(tmp_path, codec=initialized(tiny_codec()), adversarial=tiny_adversarial(update=update))
    take_steps(trainer, 1)
    before = _networks(trainer)
    audio = trainer.data.batch(1)
    audio[1, 0, 700] = bad
    assert trainer.train_step(audio) == {}
    assert differences(before, _networks(trainer)) == []


def test_skipped_steps_are_counted_and_training_continues(tmp_path: Path) -> None:
    losses = {"l1": Faulty({1: math.nan, 3: math.inf}), "mel": plain_losses()["mel"]}
    trainer = tiny_trainer(tmp_path, losses=losses, log_every=1)
    scores = trainer.run()
    lines = metric_lines(trainer)
    assert [line["skipped_steps"] for line in lines] == [0, 1, 1, 2, 2, 2]
    assert ["loss/mel" in line for line in lines] == [True, False, True, False, True, True]
    assert math.isfinite(scores["speech/mel_distance"])
    assert trainer.step == 6


def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    bad = {1: math.nan} | dict.fromkeys(range(3, 99), math.nan)
    losses = {"l1": Faulty(bad), "mel": plain_losses()["mel"]}
    trainer = tiny_trainer(
        tmp_path, losses=losses, max_skipped_steps=3, max_steps=20, log_every=5, checkpoint_every=3,
        rollback=RollbackConfig(max_rollbacks=0),
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"3 steps in a row up to step 5 .* l1: lower optimizer.codec.lr"):
        trainer.run()

    again = tiny_trainer(tmp_path, max_steps=20)
    assert again.resume()
    assert (again.step, again.skipped.total, again.skipped.in_a_row) == (3, 1, 0)
    assert all(bool(tensor.isfinite().all()) for tensor in again.codec.state_dict().values())


def test_non_finite_latents_do_not_initialize_the_codebooks(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    with torch.no_grad():
        next(trainer.codec.encoder.parameters()).fill_(math.nan)
    with pytest.raises(TrainingError, match="latents are not finite at step 0"):
        trainer._initialize_codebooks()
    assert not trainer.codec.quantizer.initialized


# ------------------------------------------------------------------------------------------------ schedules


def test_the_schedule_sets_the_rates_of_both_networks(tmp_path: Path) -> None:
    adversarial = tiny_adversarial(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5))
    plan = LRSchedule(warmup_fraction=0.2, decay="linear", final_factor=0.1)
    trainer = tiny_trainer(tmp_path, adversarial=adversarial, max_steps=10, lr_schedule=plan)
    rates = []
    for _ in range(10):
        take_steps(trainer, 1)
        rates.append([each.param_groups[0]["lr"] for each in trainer.optimizers])
    factors = [0.001, 0.5, *(0.1 + 0.9 * (1 - (step - 2) / 8) for step in range(2, 10))]
    assert [rate[0] for rate in rates] == pytest.approx([1e-3 * factor for factor in factors])
    assert [rate[1] for rate in rates] == pytest.approx([0.5 * factor for factor in factors])


def test_epochs_are_converted_to_steps(tmp_path: Path) -> None:
    # 4 s of audio in batches of 2 segments of 0.2 s.
    trainer = tiny_trainer(tmp_path, max_epochs=0.75, **NEVER)
    trainer.run()
    assert trainer.step == 8


class _Clock:
    """Advances by 10 s at each call of the loss."""

    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now

    def hooked(self) -> nn.Module:
        def tick(module: nn.Module, args: Any) -> None:
            self.now += 10

        loss = plain_losses()["l1"]
        loss.register_forward_pre_hook(tick)
        return loss


def test_max_minutes_is_training_time_without_interruptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan: dict[str, Any] = {
        "max_minutes": 1,
        "codebooks": CodebookConfig(start_fraction=0.5, init_batches=2),
        "lr_schedule": LRSchedule(decay="linear"),
        "log_every": 1,
        "validate_every": 1000,
        "checkpoint_every": 4,
    }
    clock = _Clock(5000.0)
    monkeypatch.setattr(trainer_module, "time", clock)
    first = tiny_trainer(tmp_path, losses={"l1": clock.hooked()}, **plan)
    interrupt_at(first, 5)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    clock = _Clock(77.0)
    monkeypatch.setattr(trainer_module, "time", clock)
    second = tiny_trainer(tmp_path, losses={"l1": clock.hooked()}, **plan)
    second.run()
    assert second.step == 6
    assert second.seconds == 60
    lines = metric_lines(second)
    assert [line["seconds"] for line in lines] == [10, 20, 30, 40, 50, 60]
    assert [line["lr"] for line in lines] == pytest.approx([1e-3 * (1 - k / 6) for k in range(6)])
    assert ["codebook/0/bits" in line for line in lines] == [False] * 3 + [True] * 3


def test_a_run_logs_validates_and_saves_at_its_intervals_and_at_its_end(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, max_steps=7, log_every=2, validate_every=3, checkpoint_every=5)
    scores = trainer.run()
    assert [line["step"] for line in metric_lines(trainer)] == [2, 4, 6, 7]
    assert [line["step"] for line in metric_lines(trainer, "validation")] == [0, 3, 6, 7]
    assert trainer.store.steps() == {0, 5, 7}  # the good one, and the newest two
    assert scores == pytest.approx({k: v for k, v in metric_lines(trainer, "validation")[-1].items() if k in scores})
    samples = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert samples[:3] == ["music.reference.wav", "music.step0000000.wav", "music.step0000003.wav"]
    assert len(samples) == 2 * 5


def test_a_checkpoint_has_the_score_of_its_own_validation_only(tmp_path: Path) -> None:
    """A score from earlier weights would make the wrong checkpoint the best one."""
    trainer = tiny_trainer(tmp_path, max_steps=6, log_every=100, validate_every=3, checkpoint_every=2)
    saved: list[tuple[int, float | None]] = []
    save = trainer.store.save

    def record(step: int, state: dict[str, Any], score: float | None = None, wanted: Collection[int] = ()) -> Path:
        saved.append((step, score))
        return save(step, state, score, wanted)

    trainer.store.save = record  # type: ignore[method-assign]
    scores = trainer.run()
    cost = (scores["speech/mel_distance"] + scores["music/mel_distance"]) / 2
    assert saved == [(0, None), (2, None), (4, None), (6, cost)]
    assert trainer.store.best_score() == cost


def test_the_exported_model_is_the_averaged_codec(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    trainer.run()
    exported = load_model(tmp_path / "run" / "model.safetensors")
    assert fingerprint(exported) == fingerprint(trainer.averaged_codec) != fingerprint(trainer.codec)


def test_a_record_holds_the_gradient_report_of_its_own_interval(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, encodec=True, monitor_every=4, log_every=2)
    trainer.run()
    assert ["norm/l1" in line for line in metric_lines(trainer)] == [True, False, True]
    assert {"share/l1", "share/mel", "cosine/l1/mel", "weight/l1", "loss/l1"} <= set(metric_lines(trainer)[0])


# ------------------------------------------------------------------------------------------------ bfloat16


def test_bfloat16_is_close_to_float32_and_its_first_and_last_layers_are_float32(tmp_path: Path) -> None:
    runs = {}
    for precision in ("float32", "bfloat16"):
        trainer = tiny_trainer(
            tmp_path / precision,
            adversarial=tiny_adversarial(),
            precision=precision,
            log_every=1,
            codebooks=CodebookConfig(start_fraction=0.9),
        )
        seen: dict[str, torch.dtype] = {}

        def note(name: str, seen: dict[str, torch.dtype] = seen) -> Callable[..., None]:
            return lambda module, args, output: seen.__setitem__(name, output.dtype)

        for name in ("encoder.layers.0", "encoder.layers.1", "decoder.layers.0", "decoder.layers.8"):
            trainer.codec.get_submodule(name).register_forward_hook(note(name))
        trainer.run()
        runs[precision] = (metric_lines(trainer), seen)
        assert all(parameter.dtype == torch.float32 for parameter in trainer.codec.parameters())
        assert trainer.skipped.total == 0
    lines, seen = runs["bfloat16"]
    assert seen["encoder.layers.0"] == seen["decoder.layers.8"] == torch.float32
    assert seen["decoder.layers.0"] == torch.bfloat16
    for own, exact in zip(lines, runs["float32"][0], strict=True):
        for name in ("loss/l1", "loss/mel", "loss/feature_matching", "discriminator/loss"):
            assert own[name] == pytest.approx(exact[name], rel=0.02)


# ------------------------------------------------------------------------------------------------ refused


def test_losses_and_weights_must_have_the_same_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"l1, mel \(no discriminator\) and weights l1, spectral"):
        tiny_trainer(tmp_path, weights={"l1": 1.0, "spectral": 1.0})
    with pytest.raises(ValueError, match="adversarial, feature_matching"):
        tiny_trainer(tmp_path, adversarial=tiny_adversarial(), weights={"l1": 1.0, "mel": 1.0})


def test_a_segment_must_hold_every_window(tmp_path: Path) -> None:
    from losses import MultiScaleMel

    with pytest.raises(ValueError, match=r"mel needs segments of at least \d+ samples, got 1600: raise"):
        tiny_trainer(tmp_path, losses={"mel": MultiScaleMel(RATE, [13], mels=16)})


def test_files_that_do_not_decode_are_listed_once(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    for _ in range(2):
        trainer._receive(Batch(torch.zeros(1, 1, SAMPLES), ("a.wav", "b.wav")))
    listing = (tmp_path / "run" / "skipped_files.txt").read_text(encoding="utf-8")
    assert listing == "a.wav\tdid not decode\nb.wav\tdid not decode\n"
