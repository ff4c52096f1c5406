"""Mistakes in the settings give one clear line, before any audio is read, and leave no folder."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from bad_input import ROOT, from_folder, line_of, refused, tiny
from codec.training.startup import memory_limit
from scripts.composition import check_run
from scripts.values import _check_arguments, check_values
from tiny_command import composed

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (
            ["codec=encodec_24hkz"],
            "there is no codec=encodec_24hkz, did you mean codec=encodec_24khz?",
        ),
        (["codecs=istft"], "there is no setting codecs, did you mean codec?"),
        (["experimnt=starter"], "there is no setting experimnt, did you mean experiment?"),
        (["trainer.sed=1"], "there is no setting trainer.sed, did you mean trainer.seed?"),
        (
            ["codec.network.filterss=3"],
            "there is no setting codec.network.filterss, did you mean codec.network.filters?",
        ),
        (
            ["+codec.network.filterss=3"],
            "there is no setting codec.network.filterss, did you mean codec.network.filters?",
        ),
        (
            ["+data.wrokers=3"],
            "there is no setting data.wrokers, expected one of root, corpus, dataset, transforms",
        ),
        (["+tariner.max_steps=3"], "there is no setting tariner, expected one of name"),
        (["steps"], "expected group=name or path.to.key=value (no spaces around =), got 'steps'"),
        (["balancer=pcgard"], "there is no balancer=pcgard, did you mean balancer=pcgrad?"),
        (["balancer/scale=nothing"], "there is no balancer/scale=nothing, expected one of amnl, amnl_current"),
        (["batch_size=8"], "there is no setting batch_size, did you mean data.batch_size?"),
        (
            ["data.root=/x"],
            "there is no setting data.root here, expected one of data=folder, data=large, data=starter",
        ),
        (["lr=1"], "did you mean optimizer.codec.lr or optimizer.discriminator.lr?"),
        (["losses.terms.mel.foo=1"], "; +losses.terms.mel.foo=... passes another argument to losses.MultiScaleMel"),
        (["läng=1"], "there is no setting läng: a key has letters, digits, dots and underscores only"),
        (["seed=0,1"], "seed has several values, 0,1: add -m for a run with each, or write 'seed=[0,1]' for a list"),
        (["trainer.codebooks={init_batches: 1"], "trainer.codebooks has a list or mapping that cannot be read"),
        (["experiment=null"], "expected the name of a file for a group, got null"),
        (["name=null"], "the run has no name: set name=..., or choose an experiment"),
        (["name=''"], "the run has no name: set name=..., or choose an experiment"),
        (["losses.terms.l1._target_=losses.L3"], "Error loading 'losses.L3'"),
        (
            ["discriminator=none"],
            "losses l1, mel, tonality (no discriminator) and weights l1, mel, adversarial, feature_matching, tonality",
        ),
        (
            ["+losses.weights.mell=1"],
            "losses l1, mel, tonality, adversarial, feature_matching and weights l1, mel, adversarial, "
            "feature_matching, tonality, mell",
        ),
        (["~losses.weights.mel"], "and weights l1, adversarial, feature_matching"),
        (["losses.weights={l1: 1, mel: -1}"], "losses.weights.mel must be at least 0.0, got -1"),
        (
            ["data.segment_seconds=0.03", "losses.terms.mel.window_exponents=[5]"],
            "tonality needs segments of at least 4096 samples, got 720: raise data.segment_seconds",
        ),
        (["data.segment_seconds=0.02"], "mel needs segments of at least 2048 samples, got 480"),
        (
            [
                "data.segment_seconds=0.01",
                "losses.terms.mel.window_exponents=[5]",
                "~losses.terms.tonality",
                "~losses.weights.tonality",
            ],
            "the discriminator needs segments of at least 256 samples, got 240: raise data.segment_seconds",
        ),
        (
            ["validation.bandwidth_kbps=13"],
            "validation.bandwidth_kbps: a bitrate of 13.0 kbps needs 17.3 codebooks of 0.75 kbps, but this codec has "
            "1 to 16",
        ),
        (["codec.bandwidths_kbps=[24]"], "needs 32 codebooks of 0.75 kbps, but this codec has 1 to 16"),
        (
            ["trainer.init=random", "trainer.encoder_lr_factor=0"],
            "trainer.encoder_lr_factor=0 would freeze an encoder of random weights",
        ),
        (["codec.quantizer.codebook_size=1000"], "got 1000 (in codec.quantizer)"),
        (["trainer.device=gpu"], "trainer.device=gpu is not available: expected auto, cpu"),
        (["trainer.max_minutes=1"], "must be set, got {'max_steps': 3, 'max_minutes'"),
        (["adversarial.update_probability=0"], "adversarial.update_probability must be above 0.0, got 0"),
        (["checkpoints.keep_last=0"], "checkpoints.keep_last must be at least 1, got 0"),
    ],
)
def test_mistakes_in_the_configuration(overrides: list[str], wanted: str, tmp_path: Path) -> None:
    assert wanted in refused(tmp_path, "data=clips", *overrides)


def test_mistakes_in_the_configuration_are_found_before_the_audio_is_read(tmp_path: Path) -> None:
    missing = from_folder(tmp_path / "nowhere")
    for override, wanted in (
        ("+losses.weights.mell=1", "mell"),
        ("data.segment_seconds=0.02", "got 480"),
        ("validation.bandwidth_kbps=13", "13.0 kbps"),
        ("trainer.device=gpu", "gpu"),
        ("+data.wrokers=3", "wrokers"),
    ):
        assert wanted in refused(tmp_path, *missing, override)


@pytest.fixture(scope="module")
def settings() -> DictConfig:
    return composed("train", *tiny(), "data=folder", "data.root=nowhere")


# Every kind of value that torch, Python or pydantic would refuse in their own words.
@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=-1", "seed must be at least 0, got -1"),
        ("seed=0.5", "seed must be a whole number, got 0.5"),
        ("seed=text", "seed must be a whole number, got 'text'"),
        ("seed=null", "seed must be a whole number, got None"),
        ("seed=9223372036854775808", "seed must be below 9223372036854775808, got 9223372036854775808"),
        ("runs_folder=[a]", "runs_folder must be text, got ['a']"),
        ("runs_folder=''", "runs_folder must be text that is not empty, got ''"),
        ("init_from=''", "init_from must be text that is not empty, got ''"),
        ("data.root=''", "data.root must be text that is not empty, got ''"),
        ("data.batch_size=0", "data.batch_size must be at least 1, got 0"),
        ("data.num_workers=-1", "data.num_workers must be at least 0, got -1"),
        ("data.num_workers=1000000", "data.num_workers must be at most 1024, got 1000000"),
        ("data.corpus.minimum_seconds=-1", "data.corpus.minimum_seconds must be at least 0.0, got -1"),
        ("data.corpus.held_out_fraction=1", "data.corpus.held_out_fraction must be below 1.0, got 1"),
        ("data.corpus.source_weights={speech: -1}", "data.corpus.source_weights.speech must be at least 0.0, got -1"),
        ("data.held_out.minimum_dbfs=1000", "data.held_out.minimum_dbfs must be at most 200.0, got 1000"),
        (
            "data.dataset={_target_: data.MixtureDataset, mixtures: []}",
            "data.dataset.mixtures must be a list of 1",
        ),
        (
            "data.transforms=[{_target_: data.RandomGain, minimum_db: .inf}]",
            "transforms.0.minimum_db must be a finite",
        ),
        ("data.segment_seconds=.nan", "data.segment_seconds must be a finite number, got nan"),
        ("data.held_out.seconds=0", "data.held_out.seconds must be above 0.0 or a mapping, got 0"),
        ("data.held_out.max_seconds=0", "data.held_out.max_seconds must be above 0.0, got 0"),
        ("data.held_out.clips_per_source=0", "data.held_out.clips_per_source must be at least 1, got 0"),
        ("data.held_out.second=1", "there is no setting data.held_out.second, did you mean data.held_out.seconds?"),
        ("data.corpus.source_weights={speech: a}", "data.corpus.source_weights.speech must be a number, got 'a'"),
        ("data.transforms=3", "data.transforms must be a list, got 3"),
        ("validation.bandwidth_kbps=text", "validation.bandwidth_kbps must be a number, got 'text'"),
        ("validation.metrics=pesq", "validation.metrics must be a list, got 'pesq'"),
        ("validation.metrics=[pesk]", "validation.metrics: there is no metric pesk; choose from distillmos, dnsmos"),
        ("validation.best=null", "validation.best must be text, got None"),
        ("validation.best=speech/pesk", "validation.best: there is no metric pesk; choose from distillmos, dnsmos"),
        ("validation.speech_groups=speech", "validation.speech_groups must be a list, got 'speech'"),
        ("codec.sample_rate=text", "codec.sample_rate must be a whole number, got 'text'"),
        ("codec.network=3", "codec.network must be a mapping with a _target_, got 3"),
        ("codec.network.strides=8", "codec.network.strides must be a list, got 8"),
        ("codec.network.strides=[8,a]", "codec.network.strides.1 must be a whole number, got 'a'"),
        ("codec.network.causal=3", "codec.network.causal must be true or false, got 3"),
        ("codec.network.filters=1", "compress must be at most filters (1), got 2 (in codec.network)"),
        ("codec.network.filters=100000000", "codec.network.filters must be at most 131072, got 100000000"),
        ("codec.network.strides=[5000]", "codec.network.strides.0 must be at most 4096, got 5000"),
        ("codec.network.strides=[]", "codec.network.strides must be a list of 1 or more, got []"),
        (
            "codec.network={_target_: codec.network.SEANet, residual_layers: 30}",
            "dilation_base ** (residual_layers - 1), must be at most 131072, got 2 ** 29",
        ),
        ("codec.network=null", "codec.network must be a mapping with a _target_, got None"),
        ("codec.bandwidths_kbps=[]", "codec.bandwidths_kbps must be a list of 1 or more, got []"),
        ("codec.segment_seconds=1.0e+30", "codec.segment_seconds must be at most 3600.0, got 1e+30"),
        (
            "codec.network.residual_layers=1000000000",
            "codec.network.residual_layers must be at most 100, got 1000000000",
        ),
        ("codec.network.lstm_layers=101", "codec.network.lstm_layers must be at most 100, got 101"),
        ("codec.quantizer.kmeans_iterations=-1", "codec.quantizer.kmeans_iterations must be at least 0, got -1"),
        ("codec.quantizer.num_codebooks=1000000", "codec.quantizer.num_codebooks must be at most 1024, got 1000000"),
        ("codec.quantizer.codebook_size=131072", "codec.quantizer.codebook_size must be at most 65536, got 131072"),
        ("codec.quantizer.decay=.nan", "codec.quantizer.decay must be a finite number, got nan"),
        ("codec.overlap=null", "codec.overlap must be a number, got None"),
        ("discriminator.filters=0", "discriminator.filters must be at least 1, got 0"),
        ("discriminator.windows=[1000000000]", "discriminator.windows.0 must be at most 131072, got 1000000000"),
        ("discriminator.dilations=[0]", "discriminator.dilations.0 must be at least 1, got 0"),
        ("discriminator.kernel=[3,-1]", "discriminator.kernel.1 must be at least 1, got -1"),
        ("discriminator.kernel=[3,2]", "expected a kernel of two odd sizes, got [3, 2]"),
        ("adversarial=3", "adversarial must be a mapping with a _target_, got 3"),
        ("adversarial.loss=null", "adversarial.loss must be a mapping with a _target_, got None"),
        ("validation=3", "validation must be a mapping, got 3"),
        ("optimizer.codec=null", "optimizer.codec must be a mapping with a _target_, got None"),
        ("discriminator.negative_slope=-1", "discriminator.negative_slope must be at least 0.0, got -1"),
        ("losses.terms.mel.mels=0", "losses.terms.mel.mels must be at least 1, got 0"),
        ("losses.terms.mel.window_exponents=[1000000000]", "window_exponents.0 must be at most 17, got 1000000000"),
        ("losses.terms.mel=3", "losses.terms.mel must be a mapping, got 3"),
        ("balancer.direction={_target_: balancer.PCGrad, seed: -1}", "seed must be in [0, inf), got -1"),
        ("balancer.scale.decay=x", "balancer.scale.decay must be a number, got 'x'"),
        ("optimizer.codec.lr=x", "optimizer.codec.lr must be a number, got 'x'"),
        ("optimizer.codec.lr=-1", "optimizer.codec: Invalid learning rate: -1"),
        ("optimizer.discriminator.betas=[1,2]", "optimizer.discriminator: Invalid beta parameter at index 0: 1"),
        (
            "trainer.lr_schedule.decay=x",
            "trainer.lr_schedule.decay must be 'none', 'linear', 'cosine' or 'exponential', got 'x'",
        ),
        ("trainer.lr_schedule=x", "trainer.lr_schedule must be a mapping, got 'x'"),
        ("trainer.accumulate=3", "data.batch_size must be a multiple of trainer.accumulate, 3, got 2"),
        ("trainer.compile=true", "trainer.compile must be "),
        ("trainer.codebooks.init_batches=1000000", "trainer.codebooks.init_batches must be at most 65536, got 1000000"),
        ("trainer.max_steps=1.0e+9", "trainer.max_steps must be a whole number, got 1000000000.0"),
        ("checkpoints.keep_last=x", "checkpoints.keep_last must be a whole number, got 'x'"),
        ("logger.sinks=3", "logger.sinks must be a list, got 3"),
    ],
)
def test_a_value_that_is_refused_names_the_key_and_what_is_expected(
    override: str, line: str, settings: DictConfig, tmp_path: Path
) -> None:
    cfg = copy.deepcopy(settings)
    key, value = override.split("=", 1)
    OmegaConf.update(cfg, key, yaml.safe_load(value), force_add=True)
    cfg.runs_folder = str(tmp_path) if key != "runs_folder" else cfg.runs_folder
    assert line in line_of(lambda: check_run(cfg))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), "text", [[]]], ids=["nan", "text", "list"])
def test_every_number_is_refused_as_another_kind_of_value(value: object, settings: DictConfig) -> None:
    """With a line that begins with its key, and before anything is built."""
    cfg = copy.deepcopy(settings)
    for key in _numbers(OmegaConf.to_container(cfg)):
        number = OmegaConf.select(cfg, key)
        OmegaConf.update(cfg, key, value)
        line = line_of(lambda: check_values(cfg))
        assert re.match(rf"{re.escape(key)}(\.0)? must be .+, got ", line), line
        OmegaConf.update(cfg, key, number)
    check_values(cfg)


def _sizes(value: object) -> Iterator[tuple[str, str, object]]:
    """Class or function, argument and value of every whole number, or list of them, in a file of configs/."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(value, dict) and "_target_" in value:
            numbers = each if isinstance(each, list) else [each]
            if numbers and all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
                yield value["_target_"], key, each
        yield from _sizes(each)


@pytest.mark.parametrize("group", ["codec", "discriminator", "losses", "data"])
def test_every_whole_number_that_takes_memory_has_a_limit(group: str) -> None:
    """A size of a trillion is refused by its annotation, before anything is built."""
    files = [yaml.safe_load(path.read_text()) for path in (ROOT / "configs" / group).glob("*.yaml")]
    sizes = {(target, key): value for file in files for target, key, value in _sizes(file)}
    for (target, key), value in sizes.items():
        huge = [10**12] if isinstance(value, list) else 10**12
        node = OmegaConf.create({"_target_": target, key: huge})
        line = line_of(lambda node=node, target=target: _check_arguments(group, node, get_object(target)))
        assert re.match(rf"{group}\.{key}(\.0)? must be at most ", line), line


def test_memory_that_is_not_free_is_refused_in_the_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limit, "_free_bytes", lambda: 1 << 28)
    with memory_limit.limit_to_free_memory():
        assert line_of(lambda: torch.empty(1 << 28)).startswith("not enough memory: lower data.batch_size")
        assert line_of(lambda: np.empty(1 << 30)).startswith("not enough memory: lower data.batch_size")
        torch.empty(1 << 20)
    torch.empty(1 << 28)


def _numbers(value: object, path: str = "") -> list[str]:
    """The settings that are numbers. Those of a list, and interpolations, are left out."""
    if isinstance(value, dict):
        return [key for name, each in value.items() for key in _numbers(each, f"{path}.{name}" if path else str(name))]
    return [path] if isinstance(value, int | float) and not isinstance(value, bool) else []
