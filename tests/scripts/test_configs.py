"""Every option of every group builds a run; every experiment has the values of the paper or code it is named after."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import data.corpora
from codec.training import Trainer
from codec.training.logging import TensorBoardSink, WandbSink
from data import DataError
from scripts.command_line import describe_error
from scripts.composition import build_trainer
from scripts.run_folder import KEYS, check_keys
from scripts.train import run

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
CLIPS = ROOT / "data" / "clips"
NOT_GROUPS = ("experiment", "balancer/engine")  # the latter is in every strategy

# Small where the size is not what is tested; any option of any group may come after it.
QUICK = (
    "name=test",
    "data.num_workers=0",
    "data.held_out.seconds=0.5",
    "data.held_out.clips_per_source=1",
    "trainer.device=cpu",
)
SMALL = (
    "codec=starter",
    "codec.network.filters=2",
    "codec.network.latent_dim=8",
    "discriminator=small",
    "discriminator.filters=2",
    "data=clips",
)
# What an option cannot be built without.
NEEDS: dict[str, tuple[str, ...]] = {
    "codec=audiocraft_16khz": ("validation.bandwidth_kbps=2.2",),
    "codec=audiocraft_32khz": ("validation.bandwidth_kbps=2.2",),
    "data=starter": ("data.root=nowhere",),
    "data=large": ("data.root=nowhere",),
    "data=folder": (f"data.root={CLIPS / 'train' / 'speech'}",),
    "data=manifest": (f"data.corpus.train={CLIPS}/train.jsonl", f"data.corpus.held_out={CLIPS}/held_out.jsonl"),
    "discriminator=none": ("losses=reconstruction",),
    "losses=reconstruction": ("discriminator=none",),
    "logger=wandb": ("logger.sinks.0.mode=disabled",),
}


def configuration(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", [*QUICK, *overrides])


def small_with(option: str) -> list[str]:
    """The option and what it needs, and of SMALL what is about other groups."""
    chosen = [option, *NEEDS.get(option, ())]
    groups = tuple(f"{item.partition('=')[0]}{mark}" for item in chosen for mark in "=.")
    return [*(item for item in SMALL if not item.startswith(groups)), *chosen]


def options() -> list[str]:
    """group=option for every file below a folder of configs/, nested groups too."""
    found = []
    for path in sorted(CONFIGS.rglob("*.yaml")):
        group = path.parent.relative_to(CONFIGS).as_posix()
        if group not in (".", *NOT_GROUPS):
            found.append(f"{group}={path.stem}")
    return found


def experiments() -> list[str]:
    return sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml") if path.stem != "none")


@pytest.fixture
def built(tmp_path: Path) -> Any:
    """Builds runs, and closes what they opened."""
    trainers: list[Trainer] = []

    def make(*overrides: str) -> Trainer:
        cfg = configuration(*overrides)
        check_keys(cfg)
        trainers.append(build_trainer(cfg, tmp_path / str(len(trainers))))
        return trainers[-1]

    yield make
    for trainer in trainers:
        trainer.logger.close()


Build = Callable[..., Trainer]


@pytest.fixture(autouse=True)
def _no_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise DataError("there is no network in a test")

    monkeypatch.setattr(data.corpora, "fetch", refuse)


# ---------------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize("option", options())
def test_every_option_of_every_group_builds(option: str, built: Build) -> None:
    steps = option.startswith(("balancer", "discriminator=", "losses="))  # where names and shapes have to fit together
    overrides = ("data.batch_size=1", "data.segment_seconds=0.2", "trainer.precision=float32")
    trainer = built("experiment=none", *small_with(option), *(overrides if steps else ()))
    names = set(trainer.balancer.weights)
    assert names == set(trainer.losses) | (
        set() if trainer.adversarial is None else {"adversarial", "feature_matching"}
    )
    if steps:
        metrics = trainer.train_step(trainer.data.batch(0))
        assert {name.removeprefix("loss/") for name in metrics if name.startswith("loss/")} == names
        assert {name.removeprefix("weight/") for name in metrics if name.startswith("weight/")} == names
        assert all(bool(value.isfinite()) for value in metrics.values())


@pytest.mark.parametrize("option", [o for o in options() if not o.startswith(("codec=", "data="))])
def test_every_option_goes_with_the_starter_experiment(option: str) -> None:
    """What a user types: the experiment must not set what only its own choice of a group has."""
    cfg = configuration(*small_with(option))
    for node in (cfg.balancer, cfg.discriminator, cfg.losses.terms, cfg.optimizer, cfg.trainer, cfg.logger):
        instantiate(node, _convert_="all")


@pytest.mark.parametrize("name", ["starter", "large"])
def test_without_apt_the_embedded_clips_stand_in(name: str, built: Build, caplog: pytest.LogCaptureFixture) -> None:
    trainer = built("experiment=none", *small_with(f"data={name}"))
    assert trainer.data.dataset.manifest.root == CLIPS
    assert f"data={name} is not available" in caplog.text
    assert "data/clips" in caplog.text


def test_a_folder_and_its_manifest_are_the_same_audio(built: Build) -> None:
    listed = built("experiment=none", *small_with("data=manifest"))
    found = built(
        *("experiment=none", *small_with("data=manifest")),
        *(f"data.corpus.train={CLIPS}/train", f"data.corpus.held_out={CLIPS}/held_out"),
    )
    audio = [
        [(manifest.path(entry), entry.frames) for entry in manifest.entries]
        for manifest in (trainer.data.dataset.manifest for trainer in (listed, found))
    ]
    assert audio[0] == audio[1]


@pytest.mark.parametrize(
    ("option", "setting"),
    [("folder", "data.root"), ("manifest", "data.corpus.train"), ("manifest", "data.corpus.held_out")],
)
def test_what_has_no_default_is_asked_for_by_name(option: str, setting: str, tmp_path: Path) -> None:
    given = [item for item in small_with(f"data={option}") if not item.startswith(f"{setting}=")]
    cfg = configuration(*given, f"runs_folder={tmp_path}")
    with pytest.raises(Exception, match=setting) as caught:
        run(cfg)
    assert describe_error(caught.value) == f"{setting} has no default: set {setting}=..."


def test_without_a_discriminator_the_default_losses_are_refused(built: Build) -> None:
    message = r"losses l1, mel, tonality and no discriminator.*weights for l1, mel, adversarial"
    with pytest.raises(ValueError, match=message):
        built("codec=starter", "data=clips", "discriminator=none")


def test_loggers(built: Build) -> None:
    assert configuration("logger=jsonl").logger.sinks == []
    (tensorboard,) = instantiate(configuration("logger=tensorboard").logger.sinks)
    assert isinstance(tensorboard, TensorBoardSink)
    assert tensorboard.folder == "tensorboard"
    (wandb,) = instantiate(configuration("logger=wandb", "logger.sinks.0.mode=offline").logger.sinks)
    assert isinstance(wandb, WandbSink)
    assert (wandb.project, wandb.name, wandb.entity, wandb.mode) == ("neural-codec", None, None, "offline")


def test_the_settings_that_are_read_one_by_one_are_those_of_the_files() -> None:
    """`check_keys` refuses all others, so a setting added to a file must be added there."""
    found: dict[str, set[str]] = {}
    for option in options():
        group = option.partition("=")[0]
        if group in KEYS:
            cfg = configuration(option, *NEEDS.get(option, ()))
            assert set(cfg[group]) <= set(KEYS[group]), option
            found[group] = found.get(group, set()) | set(cfg[group])
    assert found == {group: set(KEYS[group]) for group in found}
    top = {str(key) for key in configuration() if key != "hydra"}
    assert top == set(KEYS[""])
    assert set(configuration().validation) == set(KEYS["validation"])


# The alternatives that the comments in the files name.
@pytest.mark.parametrize(
    ("overrides", "path", "value"),
    [
        (["adversarial.update=alternating"], "adversarial.update", "alternating"),
        # 138 s in segments of 1 s and batches of 16, twice
        (["trainer.max_steps=null", "trainer.max_epochs=2"], "config.max_steps", 18),
        (["trainer.max_steps=null", "trainer.max_minutes=1"], "config.max_minutes", 1),
        (["trainer.lr_schedule.decay=linear"], "config.lr_schedule.decay", "linear"),
        (["trainer.lr_schedule.decay=cosine"], "config.lr_schedule.decay", "cosine"),
        (["trainer.codebooks.dropout=codebooks"], "config.codebooks.dropout", "codebooks"),
        (["trainer.codebooks.dropout=none"], "config.codebooks.dropout", "none"),
        (["trainer.codebooks.commitment_reduction=sum"], "config.codebooks.commitment_reduction", "sum"),
        (["trainer.gradient_clip_norm=1"], "config.gradient_clip_norm", 1),
        (["trainer.precision=float32"], "precision.dtype", torch.float32),
        (["checkpoints.keep_every=10"], "store.keep_every", 10),
        (["data.corpus.source_weights=null"], "data.dataset.seed", 0),
        (["seed=7"], "data.dataset.seed", 7),
        (["seed=7"], "config.seed", 7),
        (["balancer.scale.batch_invariant=true"], "balancer.strategy.scale.batch_invariant", True),
        (["balancer.monitor_every=1"], "balancer.monitor_every", 1),
        (["optimizer.codec.lr=0.001"], "adversarial.optimizer.defaults.lr", 0.001),
        (["optimizer.codec.lr=0.001"], "optimizer.defaults.lr", 0.001),
    ],
)
def test_alternatives_named_in_comments(overrides: list[str], path: str, value: object, built: Build) -> None:
    found: Any = built("experiment=none", *SMALL, *overrides)
    for name in path.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == value


def test_sources_of_a_folder_are_its_subfolders_when_they_have_weights(built: Build) -> None:
    weights = "data.corpus.source_weights={speech: 1, music: 2, effects: 1}"
    root = f"data.root={CLIPS / 'train'}"
    trainer = built("experiment=none", *small_with("data=folder"), root, weights)
    assert sorted(trainer.data.dataset.sources) == ["effects", "music", "speech"]


def test_no_experiment_wants_a_name() -> None:
    cfg = configuration("experiment=none")
    assert cfg.name == "test"
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert OmegaConf.is_missing(compose("train", ["experiment=none"]), "name")


# ----------------------------------------------------------------------------------------------- experiments

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
# frame rate in Hz, millions of parameters in the codec, books of each bandwidth
MEASURES = {
    "encodec_24khz": (75, 14.85, [2, 4, 8, 16, 32]),
    "encodec_48khz": (150, 14.86, [2, 4, 8, 16]),
    "audiocraft_24khz": (75, 14.68, [1, 2, 4, 8, 16, 32]),
    "audiocraft_32khz": (50, 56.88, [1, 2, 3, 4]),
    "starter": (75, 1.42, [2, 4, 8, 16]),
    "ablation": (75, 1.42, [2, 4, 8, 16]),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_experiments_have_the_published_values(name: str) -> None:
    cfg = configuration(f"experiment={name}")
    resolved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    found = {path: OmegaConf.select(resolved, path) for path in EXPECTED[name]}
    assert found == EXPECTED[name]


@pytest.mark.parametrize("name", experiments())
def test_experiments_build_at_their_real_size(name: str, built: Build) -> None:
    frame_rate_hz, parameters, books = MEASURES[name]
    with_its_name = [item for item in QUICK if not item.startswith("name=")]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert compose("train", [*with_its_name, f"experiment={name}"]).name == name
    trainer = built(f"experiment={name}", "data=clips")
    config = trainer.codec.config
    assert config.frame_rate_hz == frame_rate_hz
    assert sum(p.numel() for p in trainer.codec.parameters()) / 1e6 == pytest.approx(parameters, abs=0.005)
    assert [config.codebooks_for(bandwidth) for bandwidth in config.bandwidths_kbps] == books
    assert config.codebooks_for(trainer.validation.bandwidth_kbps) <= config.num_codebooks


@pytest.mark.parametrize("name", EXPECTED)
def test_what_the_experiments_leave_to_the_defaults_of_the_classes(name: str, built: Build) -> None:
    """64 mel bands and alpha = 1 in both; the logarithmic term as a norm in the paper, a mean square in audiocraft."""
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
    assert trainer.optimizer.defaults["betas"] == (0.5, 0.9)


@pytest.mark.parametrize("name", experiments())
def test_experiments_are_short_deltas(name: str) -> None:
    assert len((CONFIGS / "experiment" / f"{name}.yaml").read_text().splitlines()) <= 20


def test_every_experiment_has_its_values_written_down_here() -> None:
    assert set(experiments()) == set(MEASURES) == set(EXPECTED) | {"starter", "ablation"}


def test_the_starter_is_the_default_and_reaches_6_kbps() -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train")
    assert cfg.name == "starter"
    assert cfg.validation.bandwidth_kbps == 6.0
    assert 6 in cfg.codec.bandwidths_kbps


def test_an_ablation_goes_on_with_what_the_starter_has_learnt() -> None:
    """Same codec, losses and data, so that its checkpoint fits; both players from the first step, at a lower rate."""
    starter, cell = (configuration(f"experiment={name}") for name in ("starter", "ablation"))
    for part in ("codec", "discriminator", "losses", "data"):
        assert cell[part] == starter[part], part
    config = instantiate(cell.trainer, _convert_="all")
    assert (cell.adversarial.start_fraction, config.codebooks.start_fraction, config.ema_decay) == (0, 0, 0.99)
    assert cell.optimizer.codec.lr < starter.optimizer.codec.lr
    assert [config.lr_schedule.factor(share) for share in (0.05, 1)] == [1, pytest.approx(0.1)]
    assert config.lr_schedule.warmup_fraction * config.max_steps == 6
    assert 2 * config.validate_every == config.max_steps
