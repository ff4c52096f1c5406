"""Every option of every group builds a run, and the alternatives in the comments of the YAML files work."""

import errno
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

import data.corpora
from codec.training import Trainer
from codec.training.checks import check_loss_names
from codec.training.logging import TensorBoardSink, WandbSink
from config_files import PATCHES
from config_options import CLIPS, CONFIGS, SMALL, Build, configuration, options, small_with
from data import DataError
from scripts.command_line import HELP
from scripts.command_line import compose as compose_from_command_line
from scripts.composition import build_trainer
from scripts.errors import describe_error
from scripts.parts import instantiate as build
from scripts.run_folder import KEYS, check_keys
from scripts.train import run
from scripts.values import check_values


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise DataError("tests have no network")

    monkeypatch.setattr(data.corpora, "fetch", refuse)


# Scales, directions and others that a strategy chooses; they are built with it.
IN_A_STRATEGY = {
    f"balancer/{slot}={name}"
    for path in (CONFIGS / "balancer").glob("*.yaml")
    for slot, name in re.findall(r"^  - (\w+): (\w+)$", path.read_text(), re.MULTILINE)
}
PRIMARY = {"balancer=pcd": ("balancer.direction.primary=magnitude",)}  # the loss is mel elsewhere


ONE_STEP = (
    "data.batch_size=1",
    "data.segment_seconds=0.2",
    "trainer.precision=float32",
    "adversarial.start_fraction=0",
)
# For steps. `test_every_option_works_with_the_starter_experiment` builds the widths of the files.
NARROW = {
    "discriminator=dac": ("discriminator.discriminators.0.channels=[2,2]", "discriminator.discriminators.1.filters=2"),
    "discriminator=hilcodec": (
        "discriminator.discriminators.0.channels=[2,2]",
        "discriminator.discriminators.1.filters=2",
    ),
    "discriminator=ms_stft_multi_period": (
        "discriminator.discriminators.0.filters=2",
        "+discriminator.discriminators.1.channels=[2,2]",
    ),
    "discriminator=multi_period": ("discriminator.channels=[2,2]",),
    "discriminator=ms_stft_48khz": ("discriminator.filters=2",),
    "discriminator=per_bandwidth": ("discriminator.make.filters=2",),
}


def assert_step(trainer: Trainer) -> None:
    """Asserts that a step has a finite loss and a finite weight for every name."""
    names = set(trainer.balancer.weights)
    metrics = trainer.train_step(trainer.data.batch(0))
    assert {name.removeprefix("loss/") for name in metrics if name.startswith("loss/")} == names
    assert {name.removeprefix("weight/") for name in metrics if name.startswith("weight/")} == names
    assert all(bool(value.isfinite()) for value in metrics.values())


@pytest.mark.parametrize("option", [o for o in options() if not o.startswith("balancer")])
def test_every_option_of_every_group_builds(option: str, built: Build) -> None:
    """Without an experiment."""
    steps = option.startswith(("discriminator=", "losses="))  # names and shapes must match
    trainer = built("experiment=none", *small_with(option), *((*ONE_STEP, *NARROW.get(option, ())) if steps else ()))
    assert set(trainer.balancer.weights) == set(trainer.losses) | (
        set() if trainer.adversarial is None else {"adversarial", "feature_matching"}
    )
    if steps:
        assert_step(trainer)


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    """A run of the starter, which every strategy balances in turn."""
    cfg = configuration("experiment=starter", *SMALL, *ONE_STEP)
    trainer = build_trainer(cfg, tmp_path_factory.mktemp("starter"))
    yield trainer
    trainer.logger.close()


@pytest.mark.parametrize("option", [o for o in options() if o.startswith("balancer") and o not in IN_A_STRATEGY])
def test_every_strategy_takes_a_step_of_the_starter(option: str, starter: Trainer) -> None:
    cfg = configuration("experiment=starter", *small_with(option), *PRIMARY.get(option, ()), *ONE_STEP)
    check_keys(cfg)
    check_values(cfg)
    starter.balancer = build(cfg.balancer)
    check_loss_names(starter.losses, starter.adversarial, starter.balancer)
    assert_step(starter)


def test_the_network_at_the_frame_rate_trains(built: Build) -> None:
    """Three steps of its experiment: without a discriminator, then with one."""
    trainer = built(
        *(
            "experiment=starter",
            "data=clips",
            "data.batch_size=2",
            "data.segment_seconds=0.2",
            "discriminator.filters=2",
        ),
        *("codec.network.encoder_width=16", "codec.network.decoder_width=16", "codec.network.latent_dim=8"),
        *("codec.quantizer.codebook_size=16", "codec.bandwidths_kbps=[0.6,1.2,2.4,4.8]", "trainer.precision=float32"),
        *("validation.bandwidth_kbps=2.4", "trainer.max_steps=3", "trainer.codebooks.init_batches=2"),
    )
    before = {name: weight.clone() for name, weight in trainer.codec.named_parameters()}
    scores = trainer.run()
    assert trainer.step == 3
    assert trainer.skipped.total == 0
    assert scores["speech/mel_distance"] > 0
    assert all(not torch.equal(weight, before[name]) for name, weight in trainer.codec.named_parameters())


def test_dac_trains(built: Build) -> None:
    """Three steps of its experiment at a small size."""
    trainer = built(
        *("experiment=dac_24khz", "data=clips", "data.batch_size=2", "data.segment_seconds=0.2"),
        *("codec.network.encoder_filters=2", "codec.network.decoder_filters=16", "codec.network.latent_dim=8"),
        *("codec.quantizer.codebook_size=11", "codec.bandwidths_kbps=[0.3,1.2]", "validation.bandwidth_kbps=1.2"),
        *("discriminator.discriminators.0.channels=[2,2]", "discriminator.discriminators.1.filters=2"),
        *("trainer.max_steps=3", "trainer.precision=float32"),
    )
    before = {name: weight.clone() for name, weight in trainer.codec.named_parameters()}
    trainer.run()
    assert (trainer.step, trainer.skipped.total) == (3, 0)
    weights = trainer.codec.named_parameters()
    assert all(not torch.equal(weight, before[name]) for name, weight in weights if name.startswith(("enc", "dec")))


@pytest.mark.parametrize("option", [o for o in options() if not o.startswith(("codec=", "data=", "balancer"))])
def test_every_option_works_with_the_starter_experiment(option: str) -> None:
    """The experiment must not set anything that only its own choice of a group has."""
    cfg = configuration(*small_with(option))
    for node in (cfg.balancer, cfg.discriminator, cfg.optimizer, cfg.trainer, cfg.logger):
        instantiate(node, _convert_="all")
    terms = instantiate(cfg.losses.terms)
    assert all(isinstance(term, nn.Module) for term in terms.values())  # a setting of an absent loss is a mapping
    adversarial = {"adversarial", "feature_matching"} if cfg.discriminator else set()
    assert set(cfg.losses.weights) == set(terms) | adversarial


@pytest.mark.parametrize("name", ["starter", "large"])
def test_without_apt_the_bundled_clips_are_used(name: str, built: Build, caplog: pytest.LogCaptureFixture) -> None:
    trainer = built("experiment=none", *small_with(f"data={name}"))
    assert trainer.data.dataset.manifest.root == CLIPS
    assert f"data={name} is not available" in caplog.text
    assert "data/clips" in caplog.text


@pytest.mark.parametrize(("option", "expected"), [("data=folder", None), ("data=manifest", None), ("data=tar", 2)])
def test_loader_workers_follow_from_the_cores_where_data_are_read_by_index(option: str, expected: int | None) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", ["experiment=none", *small_with(option)])
    check_values(cfg)
    assert cfg.data.num_workers == expected


def test_a_folder_and_its_manifest_give_the_same_files(built: Build) -> None:
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
    [
        ("folder", "data.root"),
        ("manifest", "data.corpus.train"),
        ("manifest", "data.corpus.held_out"),
        ("voices", "data.root"),
    ],
)
def test_a_missing_setting_is_named(option: str, setting: str, tmp_path: Path) -> None:
    given = [item for item in small_with(f"data={option}") if not item.startswith(f"{setting}=")]
    cfg = configuration(*given, f"runs_folder={tmp_path}")
    with pytest.raises(Exception, match=setting) as caught:
        run(cfg)
    assert describe_error(caught.value) == f"{setting} has no default: set {setting}=..."


def test_without_a_discriminator_the_default_losses_are_refused(built: Build) -> None:
    message = r"losses l1, magnitude, tonality \(no discriminator\) and weights l1, magnitude, adversarial"
    with pytest.raises(ValueError, match=message):
        built("data=clips", "discriminator=none")


def test_loggers(built: Build) -> None:
    assert configuration("logger=jsonl").logger.sinks == []
    (tensorboard,) = instantiate(configuration("logger=tensorboard").logger.sinks)
    assert isinstance(tensorboard, TensorBoardSink)
    assert tensorboard.folder == "tensorboard"
    (wandb,) = instantiate(configuration("logger=wandb", "logger.sinks.0.mode=offline").logger.sinks)
    assert isinstance(wandb, WandbSink)
    assert (wandb.project, wandb.name, wandb.entity, wandb.mode) == ("neural-codec", None, None, "offline")


@pytest.mark.parametrize(
    "overrides",
    [
        ("experiment=encodec_24khz", "trainer.max_steps=3"),
        ("experiment=encodec_24khz", "balancer=pcgrad", "balancer/scale=ema_norm", "~optimizer.codec.betas"),
        ("experiment=none", "data=folder", "data.root=x", "trainer={max_steps: 3}", "hydra.job.name=a"),
    ],
)
def test_compositions_in_tests_equal_those_of_hydra(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests keep the combined files of a choice of options, see `config_files`. A change of a result is not kept."""
    changed = configuration(*overrides, "seed=7")
    changed.trainer.max_steps = 99
    found = configuration(*overrides)
    with pytest.raises(Exception, match="no_such_option"):
        configuration(*overrides, "losses=no_such_option")
    for owner, name, _, original in PATCHES:
        monkeypatch.setattr(owner, name, original)
    expected = configuration(*overrides)
    assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
    assert OmegaConf.is_struct(found) == OmegaConf.is_struct(expected)


def test_the_known_settings_are_those_of_the_files() -> None:
    """`check_keys` refuses unknown settings, so a new setting must be added to `KEYS`."""
    found: dict[str, set[str]] = {}
    for option in options():
        group = option.partition("=")[0]
        if group in KEYS:
            cfg = configuration(*small_with(option))
            assert set(cfg[group]) <= set(KEYS[group]), option
            found[group] = found.get(group, set()) | set(cfg[group])
    assert found == {group: set(KEYS[group]) for group in found}
    top = {str(key) for key in configuration() if key != "hydra"}
    assert top == set(KEYS[""])
    assert set(configuration().validation) == set(KEYS["validation"])


# Alternatives from the comments of the files, and where a trainer has them. Those of one mapping are set together.
ALTERNATIVES: list[dict[str, tuple[str, object]]] = [
    {
        "adversarial.update=alternating": ("adversarial.update", "alternating"),
        # two epochs of 138 s in segments of 1 s and batches of 16
        "trainer.max_epochs=2": ("config.max_steps", 18),
        "trainer.lr_schedule.decay=linear": ("config.lr_schedule.decay", "linear"),
        "trainer.codebooks.dropout=codebooks": ("config.codebooks.dropout", "codebooks"),
        "trainer.codebooks.commitment_reduction=sum": ("config.codebooks.commitment_reduction", "sum"),
        "trainer.gradient_clip_norm=1": ("config.gradient_clip_norm", 1),
        "trainer.precision=float32": ("precision.dtype", torch.float32),
        "checkpoints.keep_every=10": ("store.keep_every", 10),
        "data.corpus.source_weights=null": ("data.dataset.seed", 0),
        "balancer.scale.batch_invariant=true": ("balancer.strategy.scale.batch_invariant", True),
        "balancer.monitor_every=1": ("balancer.monitor_every", 1),
        "optimizer.codec.lr=0.001": ("optimizer.defaults.lr", 0.001),
    },
    {
        "trainer.max_minutes=1": ("config.max_minutes", 1),
        "trainer.lr_schedule.decay=cosine": ("config.lr_schedule.decay", "cosine"),
        "trainer.codebooks.dropout=none": ("config.codebooks.dropout", "none"),
        "seed=7": ("data.dataset.seed", 7),
        "optimizer.codec.lr=0.001": ("adversarial.optimizer.defaults.lr", 0.001),
    },
    {"seed=7": ("config.seed", 7)},
]


@pytest.mark.parametrize("alternatives", ALTERNATIVES)
def test_alternatives_named_in_comments(alternatives: dict[str, tuple[str, object]], built: Build) -> None:
    without_steps = [item for item in alternatives if item.startswith("trainer.max_")]
    trainer = built("experiment=none", *SMALL, *alternatives, *(["trainer.max_steps=null"] if without_steps else []))
    for override, (path, value) in alternatives.items():
        found: Any = trainer
        for name in path.split("."):
            found = found[name] if isinstance(found, dict) else getattr(found, name)
        assert found == value, override


def test_with_source_weights_the_sources_of_a_folder_are_its_subfolders(built: Build) -> None:
    weights = "data.corpus.source_weights={speech: 1, music: 2, effects: 1}"
    root = f"data.root={CLIPS / 'train'}"
    trainer = built("experiment=none", *small_with("data=folder"), root, weights)
    assert sorted(trainer.data.dataset.sources) == ["effects", "music", "speech"]


def test_without_an_experiment_the_run_has_no_name() -> None:
    cfg = configuration("experiment=none")
    assert cfg.name == "test"
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert OmegaConf.is_missing(compose("train", ["experiment=none"]), "name")


@pytest.mark.parametrize("name", ["train", "ablate"])
def test_help_is_printed_before_anything_is_composed(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "steps", "--help"])
    with pytest.raises(SystemExit) as caught:
        compose_from_command_line(name)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text == (HELP / f"{name}.txt").read_text(encoding="utf-8")
    commands = re.findall(rf"^  bash scripts/{name}\.sh(.*?)(?:   .*)?$", text, re.MULTILINE)
    examples = [shlex.split(command) for command in commands[1:] if "--" not in command]  # the first one is the syntax
    assert len(examples) >= 5
    for example in examples:
        arguments = [argument for argument in example if argument != "-m" and not argument.startswith("hydra")]
        single = [a if "[" in a else a.partition(",")[0] for a in arguments]
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            compose(name, single)


@pytest.mark.parametrize(
    ("error", "raised"), [(BrokenPipeError(), SystemExit), (OSError(errno.ENOSPC, "No space left on device"), OSError)]
)
def test_help_to_a_closed_pipe_or_a_full_disk(
    error: OSError, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipe, such as that of `| head`, ends the command without a message. Nothing is written again at the end."""

    def fail(*arguments: object, **settings: object) -> NoReturn:
        raise error

    dropped: list[tuple[int, int]] = []
    monkeypatch.setattr(sys, "argv", ["train", "--help"])
    monkeypatch.setattr("builtins.print", fail)
    monkeypatch.setattr(os, "dup2", lambda source, target: dropped.append((source, target)))
    with pytest.raises(raised) as caught:
        compose_from_command_line("train")
    assert caught.value is error or caught.value.args == (141,)
    assert len(dropped) == 1


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["-c", "job", "--resolve"]], ids=" ".join)
def test_cfg_job_prints_all_settings_with_their_comments(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *flags, "balancer=pcgrad", "data=folder", "seed=3"])
    with pytest.raises(SystemExit) as caught:
        compose_from_command_line("train")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "    hop_samples: 320 # samples per frame; 75 frames per second" in text
    assert max(map(len, text.splitlines())) <= 120
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", ["balancer=pcgrad", "data=folder", "data.root=x", "seed=3"])
    cfg.data.root = "???"
    expected = OmegaConf.to_container(cfg)
    found = yaml.safe_load(text)
    assert found["data"]["root"] == "???"
    if "--resolve" not in flags:
        assert found == expected
    else:
        assert found["balancer"]["weights"] == found["losses"]["weights"]
