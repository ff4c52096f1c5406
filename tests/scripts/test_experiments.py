"""Every experiment has the values of the paper or code that it is named after."""

import math
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from config_options import CONFIGS, Build, configuration, experiments

# The EnCodec paper (arXiv 2210.13438) and the encodec package.
PAPER: dict[str, object] = {
    "codec.network.filters": 32,
    "codec.network.strides": [2, 4, 5, 8],
    "codec.network.kernel_size": 7,
    "codec.network.residual_kernel_size": 3,
    "codec.network.residual_layers": 1,
    "codec.network.lstm_layers": 2,
    "codec.network.latent_dim": 128,
    "codec.network.padding": "reflect",
    "codec.network.skip": "conv",
    "codec.quantizer.codebook_size": 1024,
    "codec.quantizer.decay": 0.99,
    "codec.quantizer.kmeans_iterations": 50,
    "discriminator.filters": 32,
    "discriminator.kernel": [3, 9],
    "discriminator.dilations": [1, 2, 4],
    "discriminator.negative_slope": 0.2,
    "losses.terms.mel.window_exponents": [5, 6, 7, 8, 9, 10, 11],
    "losses.adversarial.generator": "hinge",
    "losses.adversarial.feature_matching": "relative",
    "balancer.scale.decay": 0.999,
    "balancer.scale.total_norm": 1.0,
    "balancer.refresh_every": 8,
    "balancer.refresh_from": 1000,
    "codec.network.activation": "elu",
    "adversarial.update": "alternating",
    "adversarial.start_fraction": 0.0,
    "optimizer.codec._target_": "torch.optim.Adam",
    "optimizer.codec.lr": 3e-4,
    "optimizer.codec.betas": [0.5, 0.9],
    "optimizer.discriminator.lr": 3e-4,
    "optimizer.discriminator.betas": [0.5, 0.9],
    "data.batch_size": 64,
    "data.segment_seconds": 1.0,
    "trainer.max_steps": 300 * 2000,
    "trainer.codebooks.start_fraction": 0.0,
    "trainer.codebooks.dropout": "bandwidths",
    "trainer.codebooks.commitment_weight": 1.0,
    "trainer.codebooks.commitment_reduction": "sum",
    "trainer.lr_schedule.warmup_fraction": 0.0,
    "trainer.lr_schedule.decay": "none",
    "trainer.gradient_clip_norm": None,
}
# audiocraft's config/solver/compression/default.yaml and its two models.
AUDIOCRAFT: dict[str, object] = PAPER | {
    "codec.network.norm": "weight_norm",
    "codec.normalize": False,
    "codec.network.channels": 1,
    "codec.network.padding": "constant",
    "codec.network.skip": "identity",
    "discriminator.windows": [1024, 2048, 512, 256, 128],
    "discriminator.negative_slope": 0.3,
    "losses.terms.mel.window_exponents": [6, 7, 8, 9, 10],
    "losses.terms.mel.f_min_hz": 64.0,
    "losses.weights": {"l1": 0.1, "mel": 2.0, "adversarial": 4.0, "feature_matching": 4.0},
    "losses.adversarial.generator": "hinge_linear",
    "losses.adversarial.feature_matching": "plain",
    "balancer.scale.norm_over": "item",
    "balancer.scale.batch_invariant": False,
    "balancer.refresh_every": 1,
    "adversarial.update_probability": 1.0,
    "trainer.max_steps": 200 * 2000,
    "trainer.codebooks.commitment_reduction": "mean",
    "trainer.ema_decay": 0.99,
}
EXPECTED: dict[str, dict[str, object]] = {
    "encodec_24khz": PAPER
    | {
        "codec.sample_rate": 24000,
        "codec.network.channels": 1,
        "codec.network.causal": True,
        "codec.network.norm": "weight_norm",
        "codec.normalize": False,
        "codec.segment_seconds": None,
        "codec.quantizer.num_codebooks": 32,
        "codec.bandwidths_kbps": [1.5, 3, 6, 12, 24],
        "discriminator.windows": [2048, 1024, 512, 256, 128],
        "losses.weights": {"l1": 0.1, "mel": 1.0, "adversarial": 3.0, "feature_matching": 3.0},
        "adversarial.update_probability": 2 / 3,
    },
    "encodec_48khz": PAPER
    | {
        "codec.sample_rate": 48000,
        "codec.network.channels": 2,
        "codec.network.causal": False,
        "codec.network.norm": "time_group_norm",
        "codec.normalize": True,
        "codec.segment_seconds": 1.0,
        "codec.overlap": 0.01,
        "codec.quantizer.num_codebooks": 16,
        "codec.bandwidths_kbps": [3, 6, 12, 24],
        "discriminator.windows": [4096, 2048, 1024, 512, 256],
        "losses.weights": {"l1": 0.1, "mel": 1.0, "adversarial": 4.0, "feature_matching": 4.0},
        "adversarial.update_probability": 0.5,
    },
    "audiocraft_24khz": AUDIOCRAFT
    | {
        "codec.sample_rate": 24000,
        "codec.network.causal": True,
        "codec.quantizer.num_codebooks": 32,
        "trainer.codebooks.dropout": "codebooks",
    },
    "audiocraft_32khz": AUDIOCRAFT
    | {
        "codec.sample_rate": 32000,
        "codec.network.filters": 64,
        "codec.network.strides": [4, 4, 5, 8],
        "codec.network.causal": False,
        "codec.quantizer.num_codebooks": 4,
        "codec.quantizer.codebook_size": 2048,
        "trainer.codebooks.dropout": "none",
    },
}
# What of the sources of other experiments is a setting here; their first lines say what is not.
PUBLISHED: dict[str, dict[str, object]] = {
    "nemo_encodec": {  # examples/tts/conf/audio_codec/encodec_24000.yaml of NeMo
        "codec.network.strides": [2, 4, 5, 8],
        "codec.network.filters": 32,
        "codec.network.lstm_layers": 2,
        "codec.network.causal": False,
        "codec.quantizer.num_codebooks": 8,
        "discriminator.windows": [128, 256, 512, 1024, 2048],
        "discriminator.negative_slope": 0.1,
        "losses.terms.l1._target_": "losses.L1",
        "losses.terms.mel.windows": [32, 64, 128, 256, 512, 1024, 2048],
        "losses.terms.mel.mels": [64] * 7,
        "losses.terms.mel.square_weight": pytest.approx(math.log(10), abs=1e-6),
        "losses.adversarial.generator": "least_squares",
        "losses.adversarial.feature_matching": "relative",
        "losses.adversarial.reduction": "mean",
        "losses.weights.l1": 0.1,
        "losses.weights.mel": pytest.approx(math.log(10) / 7, abs=1e-6),
        "losses.weights.adversarial": 1.0,
        "losses.weights.feature_matching": 1.0,
        "trainer.codebooks.commitment_reduction": "sum",
        "trainer.codebooks.commitment_weight": 1.0,
        "adversarial.update": "alternating",
        "adversarial.update_probability": 2 / 3,
        "optimizer.codec.lr": 3e-4,
        "optimizer.codec.betas": [0.5, 0.9],
        "data.batch_size": 16,
        "data.segment_seconds": 1.0,
        "balancer.scale._target_": "balancer.Static",
    },
    "dac_24khz": {  # conf/final/24khz.yml and scripts/train.py of descript-audio-codec
        "codec.network.encoder_filters": 64,
        "codec.network.decoder_filters": 1536,
        "codec.network.strides": [2, 4, 5, 8],
        "codec.quantizer.num_codebooks": 32,
        "codec.quantizer.codebook_size": 1024,
        "codec.quantizer.codebook_dim": 8,
        "codec.quantizer.codebook_weight": 1.0 / 0.25,
        "discriminator.peak": 0.8,
        "discriminator.discriminators.0.periods": [2, 3, 5, 7, 11],
        "discriminator.discriminators.1.windows": [2048, 1024, 512],
        "discriminator.discriminators.1.bands": [0.0, 0.1, 0.25, 0.5, 0.75, 1.0],
        "losses.terms.mel.windows": [32, 64, 128, 256, 512, 1024, 2048],
        "losses.terms.mel.mels": [5, 10, 20, 40, 80, 160, 320],
        "losses.adversarial.generator": "least_squares",
        "losses.adversarial.feature_matching": "plain",
        "losses.adversarial.reduction": "sum",
        "losses.weights": {"mel": 15.0, "adversarial": 1.0, "feature_matching": 2.0},
        "adversarial.update": "alternating",
        "optimizer.codec._target_": "torch.optim.AdamW",
        "optimizer.discriminator.lr": 1e-4,
        "optimizer.codec.betas": [0.8, 0.99],
        "data.batch_size": 72,
        "data.segment_seconds": 0.38,
        "data.transforms.0._target_": "data.NormalizeLoudness",
        "data.transforms.0.sample_rate": 24_000,
        "data.transforms.1._target_": "data.RandomPhase",
        "trainer.max_steps": 400_000,
        "trainer.gradient_clip_norm": 1e3,
        "trainer.lr_schedule.decay": "exponential",
        "trainer.lr_schedule.final_factor": pytest.approx(0.999996**400_000, abs=1e-4),
        "trainer.codebooks.dropout": "codebooks",
        "trainer.codebooks.dropout_probability": 0.5,
        "trainer.codebooks.commitment_weight": 0.25,
        "trainer.codebooks.commitment_reduction": "sum",
    },
    "hilcodec": {  # configs/hilcodec_music.yaml and models/hilcodec/losses.py of hilcodec
        "codec.bandwidths_kbps": [1.5, 3, 6, 9],
        "codec.quantizer.num_codebooks": 12,
        "codec.quantizer.decay": 0.99,
        "codec.quantizer.dead_code_threshold": pytest.approx(0.5 / (24 * 75 / 1024), abs=0.005),
        "discriminator.discriminators.0.channels": [32, 128, 512, 1024, 1024],
        "discriminator.discriminators.1.windows": [128, 256, 512, 1024],
        "losses.terms.mel.windows": [32, 64, 128, 256, 512, 1024],
        "losses.terms.mel.mels": [6, 12, 23, 45, 88, 128],
        "losses.terms.mel.square_weight": pytest.approx(2 * math.log(10), abs=1e-4),
        "losses.adversarial.generator": "hinge",
        "losses.adversarial.feature_matching": "relative",
        "losses.weights": {"mel": 0.48, "adversarial": 2 * 1.1, "feature_matching": 2 * 1.1},
        "adversarial.update": "simultaneous",
        "balancer.scale.decay": 0.99,
        "balancer.scale.total_norm": pytest.approx(0.48 + 4 * 1.1),
        "trainer.max_steps": 150 * 150_000 // 24,
        "trainer.lr_schedule.warmup_fraction": pytest.approx(5000 / 937_500, abs=1e-6),
        "trainer.lr_schedule.final_factor": 1e-6 / 5e-4,
        "trainer.codebooks.commitment_weight": 0.01,
        "optimizer.discriminator.lr": 5e-4,
        "optimizer.codec.weight_decay": 1e-5,
        "data.batch_size": 24,
    },
    "vocos_decoder": {  # configs/vocos-encodec.yaml and vocos/experiment.py of vocos
        "codec.network.decoder.decoder_width": 384,
        "codec.network.decoder.expansion": 1152 // 384,
        "codec.network.decoder.decoder_depth": 8,
        "codec.network.decoder.decoder_window_samples": 1280,
        "codec.network.decoder.hop_samples": 320,
        "losses.terms.mel.windows": [1024],
        "losses.terms.mel.mels": [100],
        "losses.weights.mel": pytest.approx(45 * math.log(10), abs=0.05),
        "losses.weights.adversarial": 2 / 8,
        "losses.adversarial.reduction": "sum",
        "discriminator.peak": None,
        "trainer.freeze": ["encoder", "quantizer"],
        "trainer.max_steps": 1_000_000,
        "trainer.lr_schedule.decay": "cosine",
        "optimizer.codec.lr": 5e-4,
        "optimizer.codec.betas": [0.8, 0.9],
        "data.batch_size": 16,
        "data.segment_seconds": 1.0,
    },
    "adversarial_only": {  # Moshi, section 3.3; the rest is audiocraft's
        "losses.terms": {},
        "losses.weights": {"adversarial": 4.0, "feature_matching": 4.0},
        "adversarial.update": "alternating",
        "trainer.max_steps": 200 * 2000,
    },
    "energy_distance": {
        "losses.terms.energy.distance.window_exponents": [6, 7, 8, 9, 10, 11],
        "codec.network.decoder_noise_channels": 16,
        "trainer.outputs_per_segment": 2,
        "discriminator": None,
    },
}
# Frame rate in Hz, millions of parameters of the codec, codebooks of each bandwidth.
SIZES = {
    "encodec_24khz": (75, 14.85, [2, 4, 8, 16, 32]),
    "encodec_48khz": (150, 14.86, [2, 4, 8, 16]),
    "audiocraft_24khz": (75, 14.68, [1, 2, 4, 8, 16, 32]),
    "audiocraft_32khz": (50, 56.88, [1, 2, 3, 4]),
    "starter": (75, 4.09, [2, 4, 8, 16]),
    "starter_seanet": (75, 1.42, [2, 4, 8, 16]),
    "ablation": (75, 1.42, [2, 4, 8, 16]),
    "dac_24khz": (75, 74.676, [1, 2, 4, 8, 16, 32]),
    "speech": (75, 3.32, [4, 6, 8]),
    "energy_distance": (75, 4.12, [2, 4, 8, 16]),
    "balancing": (50, 1.917, [4, 8]),
    "adversarial_only": (75, 14.68, [1, 2, 4, 8, 16, 32]),
    "nemo_encodec": (75, 14.85, [8]),
    "hilcodec": (75, 6.27, [2, 4, 8, 12]),
    "vocos_decoder": (75, 8.92, [2, 4, 8, 16]),
}
# Small networks for three steps of the experiments that are no delta of a published configuration tested here.
SMALL_ISTFT = ("codec.network.encoder_width=16", "codec.network.decoder_width=16", "codec.network.latent_dim=8")
SMALL_BANDS = ("discriminator.discriminators.0.channels=[2,2]", "discriminator.discriminators.1.filters=2")
TRAINED: dict[str, tuple[str, ...]] = {
    "energy_distance": SMALL_ISTFT,
    "balancing": SMALL_ISTFT,
    "adversarial_only": ("codec.network.filters=4", "codec.network.latent_dim=8", "discriminator.filters=2"),
    "nemo_encodec": ("codec.network.filters=4", "codec.network.latent_dim=8", "discriminator.filters=2"),
    "hilcodec": ("codec.network.filters=4", "codec.network.latent_dim=8", *SMALL_BANDS),
    "vocos_decoder": (
        *("codec.network.decoder.decoder_width=16", "codec.network.decoder.decoder_depth=2"),
        *("codec.network.decoder.decoder_look_ahead=3", *SMALL_BANDS),
    ),
}


@pytest.mark.parametrize("name", [*EXPECTED, *PUBLISHED])
def test_experiments_have_the_published_values(name: str) -> None:
    expected = (EXPECTED | PUBLISHED)[name]
    cfg = configuration(f"experiment={name}")
    resolved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    assert {path: OmegaConf.select(resolved, path) for path in expected} == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", experiments())
def test_experiments_build_at_their_real_size(name: str, built: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    frame_rate_hz, parameters, num_codebooks = SIZES[name]
    assert OmegaConf.load(CONFIGS / "experiment" / f"{name}.yaml").name == name
    for draw in ("uniform_", "kaiming_uniform_"):  # hundreds of millions of random weights take long
        monkeypatch.setattr(torch.nn.init, draw, lambda tensor, *_, **__: tensor)
    trainer = built(f"experiment={name}", "data=clips")
    config = trainer.codec.config
    assert config.frame_rate_hz == frame_rate_hz
    assert sum(p.numel() for p in trainer.codec.parameters()) / 1e6 == pytest.approx(parameters, abs=0.005)
    assert [config.codebooks_for(bandwidth) for bandwidth in config.bandwidths_kbps] == num_codebooks
    assert config.codebooks_for(trainer.validation.bandwidth_kbps) <= config.num_codebooks


@pytest.mark.parametrize("name", EXPECTED)
def test_the_defaults_of_the_classes_are_the_published_values(name: str, built: Build) -> None:
    """64 mel bands and alpha = 1; the logarithmic term is a norm in the paper and a mean square in audiocraft."""
    trainer = built(f"experiment={name}", "codec.network.filters=2", "discriminator.filters=2", "data=clips")
    mel: Any = trainer.losses["mel"]
    assert mel.mels == 64
    assert mel.alphas == [1.0] * len(mel.resolutions)
    assert mel.log_distance == ("l2" if name.startswith("encodec") else "mse")
    assert [scale.hop_samples * 4 for scale in mel.resolutions] == [
        2**exponent
        for exponent in EXPECTED[name]["losses.terms.mel.window_exponents"]  # type: ignore[attr-defined]
    ]
    assert trainer.data.dataset.segment_samples == trainer.codec.config.sample_rate
    assert tuple(trainer.optimizer.defaults["betas"]) == (0.5, 0.9)  # torch before 2.7 keeps a list


@pytest.mark.parametrize("name", experiments())
def test_experiments_have_at_most_20_lines(name: str) -> None:
    assert len((CONFIGS / "experiment" / f"{name}.yaml").read_text().splitlines()) <= 20


def test_every_experiment_is_tested_here() -> None:
    others = {"starter", "starter_seanet", "ablation", "dac_24khz", "speech"}
    assert set(experiments()) == set(SIZES) == set(EXPECTED) | others | set(TRAINED)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_experiments_train(name: str, built: Build) -> None:
    """Three steps with a small network, to the end of the run."""
    trainer = built(
        *(f"experiment={name}", "data=clips", "data.batch_size=2", "data.segment_seconds=0.2", *TRAINED[name]),
        *("trainer.max_steps=3", "trainer.codebooks.init_batches=2", "codec.quantizer.kmeans_iterations=1"),
        "trainer.precision=float32",
    )
    before = {key: weight.clone() for key, weight in trainer.codec.state_dict().items()}
    scores = trainer.run()
    assert (trainer.step, trainer.skipped.total) == (3, 0)
    assert scores["speech/mel_distance"] > 0
    after = trainer.codec.state_dict()
    changed = {key.split(".")[0] for key, weight in before.items() if not torch.equal(weight, after[key])}
    assert changed == ({"decoder"} if trainer.config.freeze else {"encoder", "quantizer", "decoder"})


def test_the_starter_is_the_default_and_reaches_6_kbps() -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train")
    assert cfg.name == "starter"
    assert cfg.validation.bandwidth_kbps == 6.0
    assert 6 in cfg.codec.bandwidths_kbps


def test_the_ablation_experiment_starts_from_the_seanet_starter() -> None:
    """It has the same codec, losses and data, a lower lr, and trains the discriminator from the first step."""
    starter, ablation = (configuration(f"experiment={name}") for name in ("starter_seanet", "ablation"))
    for part in ("codec", "discriminator", "losses", "data"):
        assert ablation[part] == starter[part], part
    config = instantiate(ablation.trainer, _convert_="all")
    assert (ablation.adversarial.start_fraction, config.codebooks.start_fraction, config.ema_decay) == (0, 0, 0.99)
    assert ablation.optimizer.codec.lr < starter.optimizer.codec.lr
    assert [config.lr_schedule.factor(share) for share in (0.05, 1)] == [1, pytest.approx(0.1)]
    assert config.lr_schedule.warmup_fraction * config.max_steps == 6
    assert 2 * config.validate_every == config.max_steps
