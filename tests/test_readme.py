"""Every command and every piece of code in the README works."""

import re
import runpy
import shlex
import sys
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
from codec import Codec, CodecConfig
from codec.bitstream.encodec.header import OFFICIAL
from codec.bitstream.encodec.language_model import EncodecLM
from codec.bitstream.entropy.model_file import ENTROPY_NAME, EntropyModel
from codec.cli import main
from encodec_weights import encodec_model
from scripts.ablation.grid import check_grid, grid_runs, run_config
from scripts.command_line import compose as compose_from_command_line
from scripts.run_folder import check_keys

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


FENCED: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [body for found, body in FENCED if found == language]


COMMANDS = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines() if line.strip()]


def test_commands_were_found() -> None:
    programs = {command[1] if command[0] == "bash" else command[0] for command in COMMANDS}
    assert {"scripts/train.sh", "scripts/test.sh", ".venv/bin/codec"} <= programs
    assert not re.search(r"^(\S*/)?(codec|bash) ", "\n".join(blocks("")), re.MULTILINE)


@pytest.mark.parametrize("code", blocks("python"))
def test_code_runs(code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "readme.py"
    script.write_text(code, encoding="utf-8")
    runpy.run_path(str(script))
    printed = capsys.readouterr().out.split()
    promised = re.findall(r"print\(.*# .*= (\[.*\])", code)
    assert [promise.replace(" ", "") in "".join(printed) for promise in promised] == [True] * len(promised)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "bash"], ids=" ".join)
def test_scripts_exist_and_their_overrides_compose(command: list[str]) -> None:
    assert (ROOT / command[1]).is_file()
    if command[1] == "scripts/train.sh":
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            cfg = compose("train", command[2:])
        assert not OmegaConf.missing_keys(cfg)
    if command[1] == "scripts/ablate.sh":
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            cfg = compose("ablate", command[2:], return_hydra_config=True)
            check_grid(cfg)
            for cell in grid_runs(cfg).values():
                check_keys(run_config(cfg, cell))


@pytest.mark.parametrize("command", [c for c in COMMANDS if ".venv/bin/torchrun" in c], ids=" ".join)
def test_torchrun_is_given_what_it_and_training_understand(command: list[str]) -> None:
    options = [o.replace("$SLURM_NNODES", "2") for o in command[command.index(".venv/bin/torchrun") + 1 :]]
    parsed = get_args_parser().parse_args(options)
    assert parsed.module
    assert parsed.training_script == "scripts.train"
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", parsed.training_script_args)
    assert cfg.data.batch_size % 2 == 0


def test_codec_commands_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CodecConfig(filters=2, latent_dim=8, lstm_layers=0, codebooks=8, bandwidths_kbps=[1.5, 3.0, 6.0])
    monkeypatch.chdir(tmp_path)
    run = Path("runs/starter")
    run.mkdir(parents=True)
    codec = Codec(config)
    codec.quantizer.start(torch.randn(256, 8))
    codec.save(run / "model.safetensors")
    held_out = Path("data/clips/held_out")
    for path in ("in.wav", held_out / "speech/a.wav", held_out / "music/a.wav", "audio/a.wav", "audio/b.wav"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # What is scored is too short for ViSQOL, which would take most of the time.
        soundfile.write(path, np.sin(np.arange(12_000 if "held_out" in str(path) else 24_000) / 20) / 2, 24_000)
    # Models of the encodec package in full size, with random weights.
    torch.save(encodec_model(OFFICIAL["encodec_24khz"]).state_dict(), "encodec_24khz-d7cc33bc.th")
    torch.save(EncodecLM(OFFICIAL["encodec_24khz"]).state_dict(), "encodec_lm_24khz-1608e3c0.th")
    commands = [command[1:] for command in COMMANDS if command[0] == ".venv/bin/codec"]
    assert {"encode", "decode", "info", "evaluate", "import", "export", "train-entropy"} == {c[0] for c in commands}
    for command in commands:
        stood_in = ["audio" if word == "/path/to/audio" else word for word in command]
        Path("back.wav").unlink(missing_ok=True)
        assert main(stood_in + (["--steps", "1"] if command[0] == "train-entropy" else [])) == 0
        if command[0] == "decode":
            assert soundfile.info(command[2]).frames == (6_000 if "--start" in command else 24_000)
    assert EntropyModel.load(run / ENTROPY_NAME).codec == codec.fingerprint()
    assert [Path(name).read_bytes()[4] for name in ("out.ecdc", "lm.ecdc")] == [0, 0]  # the package's


def test_a_strategy_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block for block in blocks("python") if "statistics" in block]
    (config,) = blocks("yaml")
    (tmp_path / "norm_power.py").write_text(code, encoding="utf-8")
    (tmp_path / "balancer").mkdir()
    (tmp_path / "balancer" / "norm_power.yaml").write_text(config, encoding="utf-8")
    monkeypatch.setattr(balancer.scales, "__path__", [*balancer.scales.__path__, str(tmp_path)])
    monkeypatch.setattr(sys, "argv", ["train", "--config-dir", str(tmp_path), "balancer=norm_power"])
    GlobalHydra.instance().clear()
    (cfg,) = compose_from_command_line("train")
    engine = instantiate(cfg.balancer, _convert_="all")
    output = torch.zeros(1, 1, 2, requires_grad=True)
    gradient = engine({"l1": 9 * output[0, 0, 0], "mel": 4 * output[0, 0, 1]}, output).gradient
    l1, mel = (cfg.losses.weights[name] for name in ("l1", "mel"))
    torch.testing.assert_close(gradient, torch.tensor([[[3.0 * l1, 2.0 * mel]]]))


def test_file_tree_names_what_is_there() -> None:
    (tree,) = [block for block in blocks("") if "config.py" in block]
    for name in re.findall(r"(\w+\.py)", tree):
        assert list((ROOT / "codec").rglob(name)), name
    for folder in re.findall(r"^(\w+/)", tree, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


def test_configuration_table_lists_every_option() -> None:
    (table,) = re.findall(r"^\| group \| options \|\n(.*?)\n\n", README, re.DOTALL | re.MULTILINE)
    for group, listed in re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE):
        options = {path.stem for path in (ROOT / "configs" / group).glob("*.yaml")}
        assert options == set(re.findall(r"`([a-z0-9_]+)`", listed)), group
