"""Training and coding on the pretended CUDA device: no tensor on the wrong device, and no new wait for the device."""

import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from balancer import Balancer
from balancer_inputs import linear, noise
from codec import Codec, SEANet
from codec.quantization import FactorizedQuantizer, FiniteScalarQuantizer, SimVQ, rotation
from codec.quantization.ieee import allow_tf32
from codec.streaming import StreamingDecoder, StreamingEncoder
from codec.tokens.batches import encode_signals
from codec.training import Trainer
from losses import (
    CombinedDiscriminator,
    DiscriminatorPerBandwidth,
    LogMel,
    MultiBandSTFTDiscriminator,
    MultiFilterBankDiscriminator,
    MultiPeriodDiscriminator,
    MultiResolutionSTFT,
    MultiScaleDiscriminator,
    MultiScaleMagnitude,
    MultiScaleMel,
    MultiScaleSTFTDiscriminator,
    Tonality,
)
from pretended_device import CUDA, DeviceLog, DeviceMismatch, pretended_cuda
from scripts.bench.audit import audited_trainer, launches_by_part, take_step
from scripts.bench.balancers import make_balancer
from scripts.composition import CONFIGS
from tiny_run import (
    SAMPLES,
    differences,
    initialized,
    interrupt_at,
    messages,
    tidied,
    tiny_adversarial,
    tiny_codec,
    tiny_trainer,
    tones,
)

# A step reads the losses and what the strategy measured, and later whether everything is finite.
WAITS = {"balancer/balancer.py Balancer._read": 1, "codec/training/skipped_steps.py SkippedSteps.vote": 1}
# Upper bounds, about 3 % above what was counted: operations of torch, which differ little between its versions.
MOST_LAUNCHES = {
    "encodec_24khz": {
        "codec, forward": 142,
        "codec, backward": 138,
        "codebooks": 46,
        "discriminator, forward": 220,
        "discriminator, update": 132,
        "losses": 212,
        "balancer, with the gradients of the losses": 167,
        "optimizer, average, metrics": 22,
    },
    "starter_seanet": {
        "codec, forward": 93,
        "codec, backward": 118,
        "codebooks": 46,
        "discriminator, forward": 139,
        "discriminator, update": 152,
        "losses": 191,
        "balancer, with the gradients of the losses": 132,
        "optimizer, average, metrics": 22,
    },
}
SMALL_BANDS = ("discriminator.discriminators.0.channels=[2,2]", "discriminator.discriminators.1.filters=2")
FUSED = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.9), fused=True)
DISCRIMINATORS = {
    "ms_stft": partial(MultiScaleSTFTDiscriminator, filters=2, windows=[64, 32], compression=0.3),
    "multi_period": partial(MultiPeriodDiscriminator, periods=[2, 3], channels=[2, 2]),
    "multi_scale": partial(MultiScaleDiscriminator, num_sub_discriminators=2, filters=4, max_filters=8),
    "multi_band": partial(MultiBandSTFTDiscriminator, filters=2, windows=[64]),
    "filter_bank": partial(MultiFilterBankDiscriminator, bands=[1, 2], cutoffs=[0.0, 0.17], taps=16, channels=[2, 2]),
    "combined": lambda: CombinedDiscriminator([MultiPeriodDiscriminator([2], [2]), MultiScaleDiscriminator(1, 4, 8)]),
    "per_bandwidth": lambda: DiscriminatorPerBandwidth(partial(MultiPeriodDiscriminator, [2], [2]), [0.8, 1.6, 3.2]),
}


@pytest.fixture(autouse=True)
def _settings_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.backends.cudnn.allow_tf32
    with tidied():
        yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, before


@pytest.fixture
def log() -> Iterator[DeviceLog]:
    with pretended_cuda() as log:
        yield log


def waits_of_steps(trainer: Trainer, log: DeviceLog, count: int = 1) -> dict[str, int]:
    """Waits of ordinary steps, which are not the first one and do not monitor."""
    log.clear()
    for _ in range(count):
        take_step(trainer)
    return log.waits_by_function()


# The pretended device itself


def test_an_operation_on_two_devices_is_an_error(log: DeviceLog) -> None:
    on_cuda = torch.ones(3, device="cuda")
    assert on_cuda.device == CUDA
    assert on_cuda.is_cuda
    with pytest.raises(DeviceMismatch, match="add"):
        _ = on_cuda + torch.ones(3)
    assert (on_cuda + torch.tensor(1.0)).tolist() == [2, 2, 2]  # CUDA takes scalars of the CPU
    assert on_cuda.cpu().numpy().tolist() == [1, 1, 1]
    with pytest.raises(TypeError, match="numpy"):
        on_cuda.numpy()
    with pytest.raises(DeviceMismatch, match="generator"):
        torch.rand(3, device="cuda", generator=torch.Generator())


@pytest.mark.parametrize(
    ("name", "waits", "launches"),
    [
        ("item", 1, 0),
        ("blocking copy", 1, 0),
        ("copy", 0, 0),
        ("mask", 1, 1),
        ("view", 0, 0),
        ("sum", 0, 1),
        ("bincount", 2, 1),
    ],
)
def test_waits_and_launches_are_counted(log: DeviceLog, name: str, waits: int, launches: int) -> None:
    x = torch.ones(4, device="cuda")
    mask, index, host = x > 0, x.long(), torch.ones(4)
    log.clear()
    {
        "item": lambda: x[0].item(),
        "blocking copy": lambda: host.to("cuda"),
        "copy": lambda: host.to("cuda", non_blocking=True),
        "mask": lambda: x[mask],
        "view": lambda: x.view(2, 2).t(),
        "sum": lambda: x.sum(),
        "bincount": lambda: torch.bincount(index),
    }[name]()
    assert (sum(log.waits.values()), sum(log.launches.values())) == (waits, launches)


def test_gradients_are_on_the_device(log: DeviceLog) -> None:
    layer = torch.nn.Conv1d(1, 2, 3).to("cuda")
    layer(torch.randn(1, 1, 9).to("cuda")).sum().backward()
    optimizer = FUSED(layer.parameters())
    optimizer.step()
    assert layer.weight.grad is not None
    assert layer.weight.grad.is_cuda
    assert optimizer.state[layer.weight]["exp_avg"].is_cuda


# Losses


@pytest.mark.parametrize(
    "loss",
    [
        MultiScaleMel(8000, [5, 6, 7], mels=16),
        MultiResolutionSTFT([64, 32], [12, 7], [48, 32]),
        MultiScaleMagnitude([64, 32]),
        LogMel(8000, [32, 64], [5, 10]),
        Tonality(64, 8),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_a_loss_and_its_gradient_equal_those_of_the_cpu(log: DeviceLog, loss: torch.nn.Module) -> None:
    estimate, reference = tones(2, 500), tones(2, 500, seed=1)
    found = []
    for device in ("cpu", "cuda"):
        leaf = estimate.to(device).requires_grad_()
        value = copy.deepcopy(loss).to(device)(leaf, reference.to(device))
        found.append([value.detach().cpu(), torch.autograd.grad(value, leaf)[0].cpu()])
    torch.testing.assert_close(*found)


def test_launches_of_the_mel_loss(log: DeviceLog) -> None:
    """Another resolution costs 16 launches: seven and eight in the two passes, and zeros that fill the last frame."""
    launches = []
    for exponents in ([5, 6], [5, 6, 7]):
        loss = MultiScaleMel(8000, exponents, mels=16).to("cuda")
        estimate, reference = (tones(2, 1600, seed).to("cuda") for seed in (0, 1))
        loss(estimate, reference)  # copies constants
        log.clear()
        torch.autograd.grad(loss(estimate.requires_grad_(), reference), estimate)
        launches.append(sum(log.launches.values()))
    assert launches[1] - launches[0] <= 16


# Training


@pytest.mark.parametrize(
    ("experiment", "overrides"),
    [
        ("starter_seanet", ["codec.network.filters=4", "adversarial.start_fraction=0"]),
        ("ablation", ["codec.network.filters=4", "balancer.monitor_every=50", "trainer.accumulate=2"]),
        ("encodec_24khz", ["codec.network.filters=4", "adversarial.update_probability=1"]),
        (
            "encodec_48khz",
            ["codec.network.filters=4", "adversarial.update_probability=1", "trainer.precision=bfloat16"],
        ),
        pytest.param("audiocraft_24khz", ["codec.network.filters=4"], marks=pytest.mark.slow),
        pytest.param("audiocraft_32khz", ["codec.network.filters=4", "trainer.accumulate=2"], marks=pytest.mark.slow),
        (
            "starter",
            [
                *("codec.network.encoder_width=16", "codec.network.decoder_width=16", "adversarial.start_fraction=0"),
                "trainer.freeze_encoder_until=0",
            ],
        ),
    ],
)
def test_a_step_of_every_experiment_waits_twice(log: DeviceLog, experiment: str, overrides: list[str]) -> None:
    tiny = ["data.segment_seconds=0.2", "discriminator.filters=2", "codec.network.latent_dim=8",
            "codec.quantizer.kmeans_iterations=1"]  # fmt: skip
    with audited_trainer(experiment, [*tiny, *overrides]) as trainer:
        take_step(trainer)
        assert waits_of_steps(trainer, log) == WAITS
        parts = [trainer.codec, trainer.average, trainer.adversarial]
        assert all(parameter.is_cuda for part in parts if part is not None for parameter in part.parameters())


@pytest.mark.parametrize(
    ("experiment", "overrides"),
    [("encodec_24khz", ["adversarial.update_probability=1"]), ("starter_seanet", ["adversarial.start_fraction=0"])],
)
def test_launches_of_a_step_by_part(log: DeviceLog, experiment: str, overrides: list[str]) -> None:
    """With an update of the discriminator, two codebooks and per-loss gradients."""
    narrow = ["codec.network.filters=4", "codec.network.latent_dim=8", "discriminator.filters=2"]
    tiny = ["data.segment_seconds=0.2", "codec.quantizer.kmeans_iterations=1", *overrides]
    with audited_trainer(experiment, [*narrow, *tiny, "trainer.precision=float32"]) as trainer:
        take_step(trainer)
        waits_of_steps(trainer, log)
    found, bounds = launches_by_part(log.launches), MOST_LAUNCHES[experiment]
    assert {part: (found[part], most) for part, most in bounds.items() if found[part] > most} == {}
    assert set(found) == set(bounds)


@pytest.mark.parametrize(
    ("experiment", "overrides"),
    [
        (
            "energy_distance",
            ["codec.network.encoder_width=16", "codec.network.decoder_width=16", "codec.network.latent_dim=8"],
        ),
        ("adversarial_only", ["codec.network.filters=4", "discriminator.filters=2", "codec.network.latent_dim=8"]),
        pytest.param(
            "nemo_encodec",
            ["codec.network.filters=4", "discriminator.filters=2", "codec.network.latent_dim=8"],
            marks=pytest.mark.slow,
        ),
        ("hilcodec", ["codec.network.filters=4", "codec.network.latent_dim=8", *SMALL_BANDS]),
        pytest.param("vocos_decoder", ["codec.network.decoder.decoder_width=16", *SMALL_BANDS], marks=pytest.mark.slow),
        ("encodec_24khz", ["codec.network.filters=4", "discriminator.filters=2", "losses=distillation"]),
    ],
)
def test_a_step_of_other_recipes_waits_twice(log: DeviceLog, experiment: str, overrides: list[str]) -> None:
    tiny = ["data.segment_seconds=0.2", "codec.quantizer.kmeans_iterations=1", "adversarial.update_probability=1",
            "data.held_out.seconds=0.5"]  # fmt: skip
    with audited_trainer(experiment, [*tiny, *overrides]) as trainer:
        take_step(trainer)
        assert waits_of_steps(trainer, log) == WAITS
        trainer.validate()


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "balancer").glob("*.yaml")))
def test_every_strategy_waits_once(log: DeviceLog, name: str) -> None:
    weights = {"l1": 1.0, "mel": 2.0, "adversarial": 1.0, "feature_matching": 1.0}
    balancer: Balancer = make_balancer(weights, name, *_primary(name))
    if balancer.uses_constant_baselines:
        balancer.set_constant_baselines({"l1": 0.1, "mel": 2.0})
    rows = {name: row.to("cuda") for name, row in zip(weights, noise("abcd", (2, 1, 9), seed=0).values(), strict=True)}
    for _ in range(3):
        output = torch.zeros(2, 1, 9, device="cuda", requires_grad=True)
        losses = linear(output, rows)
        log.clear()
        result = balancer(losses, output, lambda gradient, layers: gradient.flatten()[:5])
    assert log.waits_by_function() == {"balancer/balancer.py Balancer._read": 1}
    assert result.gradient.is_cuda
    assert bool(result.gradient.isfinite().all())


def _primary(name: str) -> list[str]:
    return ["balancer.direction.primary=mel"] if name == "pcd" else []


@pytest.mark.parametrize(
    ("name", "update"),
    [
        *((name, "simultaneous") for name in DISCRIMINATORS),
        ("ms_stft", "alternating"),
        ("per_bandwidth", "alternating"),
    ],
)
def test_every_discriminator_waits_twice(log: DeviceLog, tmp_path: Path, name: str, update: Any) -> None:
    """The order of the updates does not depend on the discriminator, except on one that is told the bandwidth."""
    adversarial = tiny_adversarial(optimizer=FUSED, update=update)
    adversarial.discriminator = DISCRIMINATORS[name]()
    adversarial.optimizer = FUSED(adversarial.discriminator.parameters())
    trainer = tiny_trainer(tmp_path, codec=initialized(tiny_codec()), adversarial=adversarial, device="cuda")
    before = [parameter.detach().clone() for parameter in adversarial.discriminator.parameters()]
    take_step(trainer)
    assert waits_of_steps(trainer, log) == WAITS
    after = adversarial.discriminator.parameters()
    assert not all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "quantizer",
    [
        lambda: FactorizedQuantizer(latent_dim=16, num_codebooks=4, codebook_size=13, codebook_dim=3),
        lambda: SimVQ(latent_dim=16, num_codebooks=4, codebook_size=13, estimator=rotation),
        lambda: FiniteScalarQuantizer(latent_dim=16, levels=[5, 3], num_groups=2, num_codebooks=4),
    ],
    ids=["factorized", "simvq", "fsq"],
)
def test_every_learned_quantizer(log: DeviceLog, tmp_path: Path, quantizer: Any) -> None:
    network = SEANet(filters=4, strides=(2, 4, 5), latent_dim=16, lstm_layers=0, padding="constant")
    codec = Codec(network, quantizer(), sample_rate=8000, bandwidths_kbps=[0.8, 1.6, 3.2])
    trainer = tiny_trainer(tmp_path, codec=codec, device="cuda", deterministic=True)
    trainer._initialize_codebooks()
    take_step(trainer)
    assert waits_of_steps(trainer, log) == WAITS
    trainer.validate()
    trainer._log()


def test_a_run_is_resumed_on_the_device(log: DeviceLog, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "device": "cuda", "precision": "bfloat16", "encodec": True, "init": "pca", "max_steps": 3,
        "checkpoint_every": 1, "validate_every": 3, "log_every": 2, "freeze_encoder_at": 0.6,
    }  # fmt: skip
    codec = partial(tiny_codec, activation="relu", dead_code_threshold=0.5, kmeans_iterations=3)

    def trainer(folder: str) -> Trainer:
        (tmp_path / folder).mkdir(exist_ok=True)
        adversarial = tiny_adversarial(optimizer=FUSED)
        return tiny_trainer(tmp_path / folder, codec=codec(), adversarial=adversarial, **settings)

    straight = trainer("straight")
    straight.run()
    interrupted = trainer("interrupted")
    interrupt_at(interrupted, 2)
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    resumed = trainer("interrupted")
    resumed.run()
    ends = [each.codec.state_dict() | each.average.state_dict() for each in (straight, resumed)]
    assert differences(*[{name: value.cpu() for name, value in end.items()} for end in ends]) == []
    assert straight.codec.quantizer.initialized


def test_dead_codes_are_replaced_without_a_look_at_the_device(log: DeviceLog) -> None:
    codec = initialized(tiny_codec(dead_code_threshold=0.9)).to("cuda")
    quantizer = codec.quantizer
    output = quantizer(torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(0)).to("cuda"))
    before = quantizer.embed.clone()
    log.clear()
    quantizer.update(output)
    assert log.waits_by_function() == {}
    assert not torch.equal(quantizer.embed, before)


def test_a_deterministic_step_uses_deterministic_operations_only(log: DeviceLog, tmp_path: Path) -> None:
    codec = initialized(tiny_codec(padding="reflect"))
    adversarial = tiny_adversarial(optimizer=FUSED)
    adversarial.discriminator = DISCRIMINATORS["combined"]()
    trainer = tiny_trainer(tmp_path, codec=codec, adversarial=adversarial, device="cuda", deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    take_step(trainer)
    trainer.codec.quantizer.initialize(torch.randn(64, 16).to("cuda"))
    x = torch.ones(1, 1, 9, device="cuda", requires_grad=True)
    with pytest.raises(RuntimeError, match="deterministic"):
        F.pad(x, (2, 2), mode="reflect").sum().backward()


def test_without_a_compiler_for_the_device_a_run_goes_on(log: DeviceLog, tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=initialized(tiny_codec()), device="cuda", compile="default", max_steps=1)
    trainer.run()
    assert "not compiled, training goes on without: no compiler for the pretended device" in messages(trainer)
    assert trainer.step == 1


def test_only_training_in_tf32_uses_tf32(log: DeviceLog, tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, codec=initialized(tiny_codec()), device="cuda", precision="tf32")
    seen: list[bool] = []
    for codec in (trainer.codec, trainer.averaged_codec):
        codec.encoder.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    take_step(trainer)
    assert seen == [True]
    trainer.validate()
    assert seen == [True, False, False]
    tiny_trainer(tmp_path, device="cuda", precision="float32")
    assert not torch.backends.cudnn.allow_tf32


# Coding


@pytest.fixture
def codec() -> Codec:
    return initialized(tiny_codec()).eval()


def test_coding_and_streams_equal_those_of_the_cpu(
    log: DeviceLog, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = tones(2, 2 * SAMPLES)
    codes = codec.encode(audio, 8000)
    decoded = codec.decode(codes)
    allow_tf32(True)
    codec.to("cuda")
    on_cuda = codec.encode(audio.to("cuda"), 8000)
    assert on_cuda.is_cuda
    assert torch.equal(on_cuda.cpu(), codes)
    torch.testing.assert_close(codec.decode(on_cuda).cpu(), decoded)
    monkeypatch.setattr("codec.model._DEVICE_STEP_SAMPLES", 1000)  # as for an hour of audio
    assert torch.equal(codec.encode(audio.to("cuda"), 8000).cpu(), codes)
    torch.testing.assert_close(codec.decode(on_cuda).cpu(), decoded)
    encoder, decoder = StreamingEncoder(codec), StreamingDecoder(codec)
    pieces = [*map(encoder.push, audio.to("cuda").split(300, -1)), encoder.flush()]
    assert torch.equal(torch.cat(pieces, -1).cpu(), codes)
    streamed = torch.cat([*(decoder.push(piece) for piece in pieces), decoder.flush()], -1)
    torch.testing.assert_close(streamed.cpu(), decoded)
    assert torch.backends.cudnn.allow_tf32  # as before


@pytest.mark.parametrize("beams", [1, 4])
def test_tokens_of_a_batch_equal_those_of_the_cpu(log: DeviceLog, codec: Codec, beams: int) -> None:
    codec.quantizer.beams = beams
    signals: list[Tensor] = [tones(1, length)[0] for length in (700, 900, 1500)]
    expected = [codec.encode_segment(signal[None]).codes for signal in signals]
    found = encode_signals(codec.to("cuda"), signals, None, 4000)
    for segment, codes in zip(found, expected, strict=True):
        assert torch.equal(segment.codes.cpu(), codes)
