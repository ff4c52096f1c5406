"""Commands, code and links in the README and in docs/ work."""

import re
import runpy
import shlex
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.distributed.run import get_args_parser

import balancer.scales
from codec import Codec
from codec.bitstream.encodec.header import PACKAGE_CONFIGS
from codec.bitstream.encodec.language_model import EncodecLM
from codec.bitstream.entropy.model_file import ENTROPY_NAME, EntropyModel
from codec.cli import main
from codec.model_file import fingerprint, save_model
from codec_inputs import seanet_codec, seanet_config
from encodec_weights import encodec_model
from scripts.ablation.grid import check_grid, grid_runs, run_config
from scripts.command_line import compose as compose_from_command_line
from scripts.run_folder import check_keys

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "codec" / "bundled").glob("*/README.md"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
ANY_DOCUMENT = [*DOCUMENTS, *sorted((ROOT / "docs" / "log").glob("*.md")), ROOT / "CHANGELOG.md"]


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language, "" for none."""
    text = document.read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [body for found, body in fenced if found == language]


def commands(document: Path) -> list[list[str]]:
    """The words of each command in the shell blocks, with the arrays that a block sets: NAME=(...) and "${NAME[@]}"."""
    lines = "\n".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()
    arrays: dict[str, list[str]] = {}
    found = []
    for words in (shlex.split(line, comments=True) for line in lines):
        if words and (array := re.fullmatch(r"(\w+)=\((.*)", words[0])):
            arrays[f"${{{array[1]}[@]}}"] = [array[2], *words[1:-1], words[-1].removesuffix(")")]
        elif words:
            found.append([each for word in words for each in arrays.get(word, [word])])
    return found


# Every command once, with the first document that has it.
COMMANDS = list({tuple(command): command for document in DOCUMENTS for command in commands(document)}.values())


def test_commands_were_found() -> None:
    programs = {command[1] if command[0] == "bash" else command[0] for command in COMMANDS}
    scripts = {path.relative_to(ROOT).as_posix() for path in (ROOT / "scripts").glob("*.sh")}
    assert programs == {*scripts, ".venv/bin/codec", ".venv/bin/python", ".venv/bin/torchrun", "cat", "srun"}
    unchecked = "\n".join(block for document in DOCUMENTS for block in blocks(document, ""))
    assert not re.search(r"^(\S*/)?(codec|bash) ", unchecked, re.MULTILINE)


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("document", ANY_DOCUMENT, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


@pytest.mark.parametrize("code", blocks(README, "python"))
def test_code_runs(
    code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "readme.py"
    script.write_text(code, encoding="utf-8")
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(script))
    printed = capsys.readouterr().out.split()
    promised = re.findall(r"print\(.*# .*= (\[.*\])", code)
    assert [promise.replace(" ", "") in "".join(printed) for promise in promised] == [True] * len(promised)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "bash"], ids=" ".join)
def test_scripts_exist_and_their_arguments_are_valid(command: list[str]) -> None:
    _, script, *arguments = command
    assert (ROOT / script).is_file()
    if script == "scripts/train.sh":
        if "-m" in arguments:  # the first of several values
            arguments = [argument.partition(",")[0] for argument in arguments if argument != "-m"]
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            cfg = compose("train", arguments)
        assert not OmegaConf.missing_keys(cfg)
    elif script == "scripts/ablate.sh":
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            cfg = compose("ablate", arguments, return_hydra_config=True)
            check_grid(cfg)
            for run in grid_runs(cfg).values():
                check_keys(run_config(cfg, run))
    elif script == "scripts/setup.sh":
        pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        assert set(arguments) <= set(pyproject["project"]["optional-dependencies"])
    elif script in ("scripts/bench.sh", "scripts/test.sh"):
        text = (ROOT / script).read_text(encoding="utf-8")
        assert all(re.search(rf"^#.*{re.escape(argument)}\b", text, re.MULTILINE) for argument in arguments)


@pytest.mark.parametrize("command", [c for c in COMMANDS if ".venv/bin/torchrun" in c], ids=" ".join)
def test_torchrun_is_given_what_it_and_training_understand(command: list[str]) -> None:
    options = [o.replace("$SLURM_NNODES", "2") for o in command[command.index(".venv/bin/torchrun") + 1 :]]
    parsed = get_args_parser().parse_args(options)
    assert parsed.module
    assert parsed.training_script == "scripts.train"
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", parsed.training_script_args)
    assert cfg.data.batch_size % 2 == 0


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == ".venv/bin/python"], ids=" ".join)
def test_modules_that_python_runs_exist(command: list[str]) -> None:
    assert command[1] == "-m"
    assert find_spec(command[2]) is not None


CODEC_DOCUMENTS = [
    document
    for document in DOCUMENTS
    if "bundled" not in document.parts and any(".venv/bin/codec" in c for c in commands(document))
]


def small_codec() -> Codec:
    codec = seanet_codec(
        filters=2, latent_dim=8, lstm_layers=0, num_codebooks=8, codebook_size=1024, bandwidths_kbps=[1.5, 3.0, 6.0]
    )
    codec.quantizer.initialize(torch.randn(256, 8))
    return codec


@pytest.mark.parametrize("document", CODEC_DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_codec_commands_run_in_order(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("runs/starter")
    run.mkdir(parents=True)
    codec = small_codec()
    save_model(codec, run / "model.safetensors")
    held_out = Path("data/clips/held_out")
    for path in ("in.wav", held_out / "speech/a.wav", held_out / "music/a.wav", "audio/a.wav", "audio/b.wav"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # What is scored is too short for ViSQOL, which would take most of the time.
        soundfile.write(path, np.sin(np.arange(12_000 if "held_out" in str(path) else 24_000) / 20) / 2, 24_000)
    if "encodec_24khz" in document.read_text(encoding="utf-8"):  # a narrow model of the package, with random weights
        narrow = seanet_config(filters=4, latent_dim=16)
        monkeypatch.setitem(PACKAGE_CONFIGS, "encodec_24khz", narrow)
        torch.save(encodec_model(narrow).state_dict(), "encodec_24khz-d7cc33bc.th")
        torch.save(EncodecLM(narrow).state_dict(), "encodec_lm_24khz-1608e3c0.th")
    for _, *command in [c for c in commands(document) if c[0] == ".venv/bin/codec"]:
        stood_in = ["audio" if word == "/path/to/audio" else word for word in command]
        assert main(stood_in + (["--steps", "1"] if command[0] == "train-entropy" else [])) == 0
        if command[0] == "decode":
            output = command[command.index("-o") + 1] if "-o" in command else Path(command[1]).with_suffix(".wav")
            assert soundfile.info(output).frames == (6_000 if "--start" in command else 24_000)
        if command[0] == "train-entropy":
            assert EntropyModel.load(run / ENTROPY_NAME).codec_fingerprint == fingerprint(codec)
        if command[0] == "encode" and "--format" in command:
            assert Path(command[command.index("-o") + 1]).read_bytes()[4] == 0  # version 0 of the package's format


def test_every_codec_command_is_documented() -> None:
    shown = {c[1] for document in CODEC_DOCUMENTS for c in commands(document) if c[0] == ".venv/bin/codec"}
    assert shown == {
        "encode",
        "decode",
        "info",
        "completion",
        "tokenize",
        "detokenize",
        "evaluate",
        "import",
        "export",
        "train-entropy",
    }


def test_a_strategy_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block for block in blocks(README, "python") if "statistics" in block]
    (config,) = blocks(README, "yaml")
    (tmp_path / "norm_power.py").write_text(code, encoding="utf-8")
    (tmp_path / "balancer").mkdir()
    (tmp_path / "balancer" / "norm_power.yaml").write_text(config, encoding="utf-8")
    monkeypatch.setattr(balancer.scales, "__path__", [*balancer.scales.__path__, str(tmp_path)])
    monkeypatch.setattr(sys, "argv", ["train", "--config-dir", str(tmp_path), "balancer=norm_power"])
    GlobalHydra.instance().clear()
    (cfg,) = compose_from_command_line("train")
    engine = instantiate(cfg.balancer, _convert_="all")
    output = torch.zeros(1, 1, 2, requires_grad=True)
    gradient = engine({"l1": 9 * output[0, 0, 0], "magnitude": 4 * output[0, 0, 1]}, output).gradient
    l1, magnitude = (cfg.losses.weights[name] for name in ("l1", "magnitude"))
    torch.testing.assert_close(gradient, torch.tensor([[[3.0 * l1, 2.0 * magnitude]]]))


def test_the_map_names_every_room() -> None:
    (tree,) = [block for block in blocks(README, "") if "codec/ " in block]
    rooms = {path.name for path in (ROOT / "codec").iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"^  (\w+)/", tree, re.MULTILINE)) == rooms
    for folder in re.findall(r"^(\w+)/", tree, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


def test_every_balancing_strategy_is_documented() -> None:
    text = (ROOT / "docs" / "balancers.md").read_text(encoding="utf-8")
    options = {path.stem for path in (ROOT / "configs" / "balancer").glob("*.yaml")}
    first_column = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text, re.MULTILINE)
    assert options <= set(re.findall(r"`(\w+)`", " ".join(first_column)))
    assert f"{len(options)} ways of balancing" in README.read_text(encoding="utf-8")
