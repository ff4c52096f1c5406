"""Values on the command line: any text works, and Hydra's lists, mappings, interpolations and sweeps still do."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from scripts.overrides import prepare, swept_keys


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of configurations with one setting, which composes fast."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "train.yaml").write_text("data:\n  root: ???\n")
    return folder


def root_of(value: str, configs: Path) -> Any:
    with initialize_config_dir(str(configs), version_base="1.3"):
        cfg = compose("train", prepare([f"data.root={value}"]))
    return OmegaConf.to_container(cfg, resolve=True)["data"]["root"]  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    "value",
    [
        *("/x/hörspiel", "日本", "/x/a (b)=c,d", "/x/a b", "/x/a=b", "/x/a,b", "c,d", "/x/a#b", "/x/a&b", "/x/it's"),
        *('/x/"q"', "/x/[1]", "/x/{1}", "[x", "{", "=", "(", "'", '"', "/x/${", "$(x)", "/x/a;b", "/x/a!b", "a:b"),
        *(
            "/x/(\\",
            "/x/(\\'",
            "/x/a ",
            "/x/a\nb",
            "1e3",
            "1_000",
            "007",
            "true",
            "range(1,3)",
            os.fsdecode(b"caf\xe9"),
        ),
    ],
)
def test_a_path_is_taken_as_it_is(value: str, configs: Path) -> None:
    assert root_of(value, configs) == value


def test_the_home_folder_and_variables_are_filled_in(configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me (1)")
    assert root_of("~/audio", configs) == "/home/me (1)/audio"
    assert root_of("${oc.env:HOME}/audio", configs) == "/home/me (1)/audio"
    assert root_of("${oc.env:HOME}/(a)", configs) == "/home/me (1)/(a)"


@given(st.text(st.characters(blacklist_characters="\0"), min_size=1))
def test_any_text_is_a_name(text: str) -> None:
    """Quotes around the whole value are Hydra's, as is an interpolation, null, or a value with escapes."""
    if text[0] in "'\"~" or "${" in text or "\\" in text or text.lower() == "null":
        return
    (argument,) = prepare([f"name={text}"])
    assert OverridesParser.create().parse_override(argument).value() == text


@pytest.mark.parametrize(
    "argument",
    [
        *(
            "seed=1",
            "codec=starter_seanet",
            "balancer/scale=ema_norm",
            "+a.b=1",
            "~losses.weights.mel",
            "hydra/launcher=joblib",
        ),
        *("strategies=[a,'b c=1']", "weights=[{},{mel: 2}]", "trainer.codebooks={init_batches: 1}", "seed=${data.x}"),
        *("name='a b'", "init_from=null", "data.root=/plain/path", "name="),
    ],
)
def test_what_hydra_reads_rightly_stays(argument: str) -> None:
    assert prepare([argument]) == [argument]


def test_flags_and_their_values_stay() -> None:
    flags = ["-m", "--config-dir", "/a=(b", "--cfg", "job"]
    assert prepare(flags) == flags


def test_with_multirun_commas_separate_values() -> None:
    arguments = prepare(["-m", "seed=0,1", "data.root=/x/ö,/x/(b)", "balancer=a,b", "name=x"])
    assert arguments == ["-m", "seed=0,1", "data.root='/x/ö','/x/(b)'", "balancer=a,b", "name=x"]
    assert swept_keys(arguments) == {"seed", "data.root", "balancer"}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_multirun_stands_anywhere(place: int) -> None:
    arguments = ["name=a", "seed=0,1"]
    arguments.insert(place, "-m")
    assert prepare(arguments) == ["-m", "name=a", "seed=0,1"]


@pytest.mark.parametrize("argument", ["--batch_size", "--data.batch_size=16", "-v", "--multi"])
def test_options_of_other_programs_are_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"there is no option {argument}: settings are written without dashes, as in"):
        prepare(["name=a", argument])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cfg", "jobs"], "--cfg must be one of job, hydra, all, got 'jobs'"),
        (["-c=jobs"], "-c must be one of job, hydra, all, got 'jobs'"),
        (["seed=1", "--cfg"], "--cfg must be one of job, hydra, all, got ''"),
        (["--config-dir"], "--config-dir needs a value"),
        (["--package=", "seed=1"], "--package needs a value"),
    ],
)
def test_options_without_their_value_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare(arguments)


@pytest.mark.parametrize("arguments", [["--cfg", "job"], ["--cfg=job", "--resolve"], ["-h"], ["--info"]])
def test_options_of_hydra_stay(arguments: list[str]) -> None:
    assert prepare(arguments) == arguments
