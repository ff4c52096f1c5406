"""The ablation: what its cells are, that they differ in nothing but the strategy, that it goes on, and what it says."""

import hashlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from codec.evaluation import Metric, score_audio
from codec.training import AdversarialTraining, Trainer, TrainingConfig, load_checkpoint
from data import HeldOutClip
from scripts.ablate import ablate, main
from scripts.ablation.display import GridDisplay
from scripts.ablation.grid import grid_runs, run_config
from scripts.ablation.run import _PeakMemory, score
from scripts.command_line import describe_error
from scripts.composition import make
from tiny_command import ROOT, TINY, composed, listed
from tiny_run import exported, started, tiny_codec, tones

FAST = "metrics=[mel_distance,si_sdr_db]"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, errors as the commands see them, and no pages: these take longer to draw than the cells to train."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr("scripts.ablate.write_ablation_report", lambda folder, reference: folder / "ablation.html")
    monkeypatch.setattr("gc.collect", lambda: 0)  # before every cell; next to pytest's heap, slower than the cell
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    runs = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codec.training.logging.live_report.write_report", lambda folder, running: None)
        from scripts.train import run

        run(composed("train", *TINY, "name=base", f"runs_folder={runs}", "trainer.max_steps=2"))
    return runs / "base"


Ablate = Callable[..., Path]


@pytest.fixture
def ablation(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ablate:
    """Runs the command in this process; returns the ablation's folder."""

    def run(*overrides: str) -> Path:
        flags = 2 if overrides[:1] == ("--config-dir",) else 0
        arguments = ["ablate", *overrides[:flags], *settings(base, tmp_path), *overrides[flags:]]
        monkeypatch.setattr(sys, "argv", arguments)
        ablate()
        assert sys.argv == arguments
        return tmp_path / "tiny"

    return run


def settings(base: Path, runs: Path) -> list[str]:
    """Two strategies, one seed, three steps."""
    return [
        "name=tiny", f"runs_folder={runs}", f"base={base}",
        f"overrides={listed(TINY)}", f"base_overrides={listed(TINY)}",
        "strategies=[weighted_sum,encodec]", "seeds=[0]", "max_steps=3", FAST,
    ]  # fmt: skip


def entry(folder: Path, cell: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "runs" / cell / "result.json").read_text())
    return result


def finished(folder: Path) -> set[str]:
    return {path.parent.name for path in (folder / "runs").glob("*/result.json")}


def planned(*overrides: str) -> dict[str, DictConfig]:
    """The training configuration of every cell."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("ablate", list(overrides))
        return {name: run_config(cfg, cell) for name, cell in grid_runs(cfg).items()}


def metric_lines(folder: Path, cell: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs" / cell / "metrics.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------- the grid


def test_the_default_grid_is_eight_strategies_and_three_seeds_from_the_starter() -> None:
    cells = planned()
    cfg = composed("ablate")
    assert len(cfg.strategies) == 8
    assert len(cells) == 24
    for name, train in cells.items():
        assert train.init_from == "runs/starter"
        assert train.name == name
        assert train.runs_folder == "runs/ablations/starter/runs"
        assert train.adversarial.start_fraction == 0
        assert (train.optimizer.codec.lr, train.optimizer.discriminator.lr) == (1e-4, 3e-4)
        assert train.trainer.max_steps == 120
        # at the start, in the middle, at the end
        assert train.trainer.validate_every == 60
        make(train.balancer)
    assert {name.partition(".")[0] for name in cells} == set(cfg.strategies)


def test_cells_of_one_seed_differ_in_the_balancer_alone() -> None:
    by_seed = defaultdict(list)
    for train in planned().values():
        plain: Any = OmegaConf.to_container(train, resolve=True)
        seed = plain["seed"]
        by_seed[seed].append({key: value for key, value in plain.items() if key not in ("name", "balancer")})
    assert sorted(by_seed) == [0, 1, 2]
    for members in by_seed.values():
        assert all(member == members[0] for member in members)


def test_a_strategy_may_have_overrides_of_its_own() -> None:
    cells = planned('strategies=[weighted_sum,"pcgrad balancer/scale=ema_norm balancer.scale.decay=0.9"]', "seeds=[4]")
    name = "pcgrad-balancer-scale-ema_norm-balancer.scale.decay-0.9.default.seed4"
    assert list(cells) == ["weighted_sum.default.seed4", name]
    found = cells[name].balancer
    assert found.direction._target_ == "balancer.PCGrad"
    assert found.scale._target_ == "balancer.EmaNorm"
    assert found.scale.decay == 0.9
    assert cells[name].seed == 4


def test_a_common_magnitude_rule_leaves_a_strategys_own_choice() -> None:
    cells = planned('strategies=[weighted_sum,"encodec balancer/magnitude=keep"]', "seeds=[0]", "magnitude=match_sum")
    targets = [train.balancer.magnitude._target_ for train in cells.values()]
    assert targets == ["balancer.MatchSum", "balancer.Keep"]


def test_weights_are_factors_as_in_table_a4() -> None:
    cells = planned("strategies=[weighted_sum]", "seeds=[0]", "weights=[{},{adversarial:10},{adversarial:100,mel:0.5}]")
    plain, tenfold, both = cells.values()
    assert list(cells) == [
        "weighted_sum.default.seed0",
        "weighted_sum.adversarial-x10.seed0",
        "weighted_sum.adversarial-x100-mel-x0.5.seed0",
    ]
    first = plain.losses.weights
    assert dict(tenfold.losses.weights) == {**first, "adversarial": 10 * first.adversarial}
    assert dict(both.losses.weights) == {**first, "adversarial": 100 * first.adversarial, "mel": 0.5 * first.mel}
    assert both.balancer.weights == both.losses.weights


def test_end_points_are_each_loss_alone_and_each_left_out() -> None:
    cells = planned(
        "strategies=[weighted_sum,encodec]",
        "baseline=encodec",
        "seeds=[0]",
        "loss_ablations=[single_loss,leave_one_out]",
    )
    first = cells["encodec.default.seed0"].losses.weights
    assert len(cells) == 2 + 2 * len(first)
    for loss in first:
        single, all_but = cells[f"only-{loss}.default.seed0"], cells[f"without-{loss}.default.seed0"]
        assert dict(single.losses.weights) == {name: first[name] if name == loss else 0 for name in first}
        assert dict(all_but.losses.weights) == {name: 0 if name == loss else first[name] for name in first}
        assert single.balancer.scale == all_but.balancer.scale == cells["encodec.default.seed0"].balancer.scale


def test_from_scratch_and_minutes() -> None:
    (train,) = planned(
        *("strategies=[weighted_sum]", "seeds=[1]", "start=from_scratch", "max_steps=null", "max_minutes=2")
    ).values()
    assert train.init_from is None
    assert (train.trainer.max_steps, train.trainer.max_minutes) == (None, 2)
    assert train.trainer.init == composed("train").trainer.init == "pca"


# -------------------------------------------------------------------------------------------------------- fairness


class Witness:
    """Notes what every cell sees and draws, and what it starts from."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: dict[str, list[str]] = defaultdict(list)
        self.updates: dict[str, list[bool]] = defaultdict(list)
        self.books: dict[str, list[float]] = defaultdict(list)
        self.starts: dict[str, str] = {}
        self._cell = ""
        step, losses = Trainer.train_step, AdversarialTraining.generator_losses

        def train_step(trainer: Trainer, audio: Tensor) -> dict[str, Tensor]:
            self._cell = trainer.logger.folder.name
            if trainer.step == 0:
                state = trainer.state_dict()
                self.starts[self._cell] = _digest(*(state[part] for part in ("codec", "average", "adversarial")))
            self.batches[self._cell].append(_digest(audio))
            metrics = step(trainer, audio)
            self.books[self._cell].append(float(metrics["num_codebooks"]))
            return metrics

        def generator_losses(
            adversarial: AdversarialTraining, estimate: Tensor, reference: Tensor, update_discriminator: bool
        ) -> Any:
            self.updates[self._cell].append(update_discriminator)
            return losses(adversarial, estimate, reference, update_discriminator)

        monkeypatch.setattr(Trainer, "train_step", train_step)
        monkeypatch.setattr(AdversarialTraining, "generator_losses", generator_losses)

    def of(self, cell: str) -> tuple[Any, ...]:
        return self.starts[cell], self.batches[cell], self.books[cell], self.updates[cell]


def _digest(*values: Any) -> str:
    digest = hashlib.sha256()
    for value in values:
        tensors = [value] if isinstance(value, Tensor) else [v for v in value.values() if isinstance(v, Tensor)]
        for tensor in tensors:
            digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("start", "strategies"),
    [("from_base", ["weighted_sum", "rlw", "pcgrad"]), ("from_scratch", ["weighted_sum", "rlw"])],
)
def test_cells_of_one_seed_see_the_same_whatever_the_strategy(
    start: str, strategies: list[str], ablation: Ablate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rlw and pcgrad draw from generators of their own; the last one does what it should not."""
    witness = Witness(monkeypatch)
    drawing = "weighted_sum balancer.scale._target_=outside_parts.DrawingScale"
    folder = ablation(f"strategies={listed((*strategies, drawing))}", "seeds=[0,1]", f"start={start}")
    names = [*strategies, "weighted_sum-balancer.scale._target_-outside_parts.DrawingScale"]
    assert finished(folder) == {f"{name}.default.seed{seed}" for name in names for seed in (0, 1)}
    seen = {seed: witness.of(f"weighted_sum.default.seed{seed}") for seed in (0, 1)}
    for name in names:
        for seed in (0, 1):
            assert witness.of(f"{name}.default.seed{seed}") == seen[seed], name
    # Seeds differ, so the comparison can fail; a common checkpoint is the same for all of them.
    assert seen[0][1:] != seen[1][1:]
    assert (seen[0][0] == seen[1][0]) == (start == "from_base")
    # The strategies made different things of it, and what the last one drew made none.
    models = [exported(folder / "runs" / f"{name}.default.seed0") for name in names]
    assert models[0] == models[-1]
    assert models[0] != models[1]


# ---------------------------------------------------------------------------------------------- running and going on


def test_what_a_cell_leaves(ablation: Ablate, base: Path) -> None:
    folder = ablation("weights=[{adversarial:10}]")
    name = "encodec.adversarial-x10.seed0"
    found = entry(folder, name)
    assert {key: found[key] for key in list(found)[:8]} == {
        "cell": name,
        "strategy": "encodec",
        "weights": "adversarial-x10",
        "weight_factors": {"adversarial": 10},
        "loss_ablation": None,
        "seed": 0,
        "steps": 3,
        "seconds": found["seconds"],
    }
    assert 0 < found["seconds_per_step"] < found["seconds"]
    assert (found["skipped_steps"], found["failure"]) == (0, None)
    assert set(found["scores"]) == {"mel_distance", "si_sdr_db", "codes_used", "bitrate_efficiency"}
    assert {clip["group"] for clip in found["clips"].values()} == {"speech", "music", "effects"}
    mean = np.mean([clip["mel_distance"] for clip in found["clips"].values()])
    assert found["scores"]["mel_distance"] == pytest.approx(mean)
    # The scores are those of the last validation, which measures the same of the same codec.
    last = [line for line in metric_lines(folder, name) if line["split"] == "validation"][-1]
    assert last["all/mel_distance"] == pytest.approx(found["scores"]["mel_distance"], rel=1e-6)
    cell = folder / "runs" / name
    for file in ("config.yaml", "metrics.jsonl", "model.safetensors", "log.txt", "checkpoints", "samples"):
        assert (cell / file).exists()
    assert f"starts with the weights of {base} at step 2" in (cell / "log.txt").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["ablation.yaml", "runs"]  # nothing of Hydra's
    kept: Any = OmegaConf.to_container(OmegaConf.load(folder / "ablation.yaml"))
    assert kept["weights"] == [{"adversarial": 10}]
    assert "job" not in kept
    assert "hydra" not in kept


def test_only_the_grid_is_on_the_console(ablation: Ablate, capfd: pytest.CaptureFixture[str]) -> None:
    ablation()
    out, err = capfd.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert re.fullmatch(r"weighted_sum\.default\.seed0  3 steps in \d+:\d\d", lines[0])
    assert lines[lines.index("2/2 cells") - 1].startswith("encodec.default.seed0  3 steps in")
    assert not any("validation" in line or "audio s/s" in line for line in lines)
    assert any(line.split()[:1] == ["encodec"] for line in lines)  # the table of scores
    assert lines[-3].split() == ["page", f"{lines[-1].split()[1].removesuffix('/runs')}/ablation.html"]


def test_finished_cells_are_not_run_again_and_a_grid_may_grow(
    ablation: Ablate, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ablation()
    before = {path: path.read_bytes() for path in (folder / "runs").rglob("*") if path.is_file()}
    trained: list[str] = []
    step = Trainer.train_step

    def noted(trainer: Trainer, audio: Tensor) -> dict[str, Tensor]:
        trained.append(trainer.logger.folder.name)
        return step(trainer, audio)

    monkeypatch.setattr(Trainer, "train_step", noted)
    ablation()
    assert trained == []
    ablation("strategies=[encodec,rlw]", "baseline=encodec", "seeds=[0,1]")
    assert set(trained) == {"encodec.default.seed1", "rlw.default.seed0", "rlw.default.seed1"}
    assert {path: path.read_bytes() for path in before} == before


def test_an_interrupted_cell_goes_on_from_its_checkpoint(ablation: Ablate, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.train_step

    def stop(trainer: Trainer, audio: Tensor) -> dict[str, Tensor]:
        if (trainer.logger.folder.name, trainer.step) == ("encodec.default.seed0", 2):
            raise KeyboardInterrupt
        return step(trainer, audio)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stop)
        with pytest.raises(KeyboardInterrupt):
            ablation()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    folder = ablation()
    assert finished(folder) == {"weighted_sum.default.seed0", "encodec.default.seed0"}
    assert "resumed at step 2" in (folder / "runs" / "encodec.default.seed0" / "log.txt").read_text()
    steps = [line["step"] for line in metric_lines(folder, "encodec.default.seed0") if line["split"] == "train"]
    assert steps == [1, 2, 3]


def test_ctrl_c_says_how_to_go_on(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(trainer: Trainer, audio: Tensor) -> dict[str, Tensor]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train_step", stop)
    monkeypatch.setattr(sys, "argv", ["ablate", *settings(base, tmp_path)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 130
    assert capsys.readouterr().err == "stopped; the same command goes on with the cells that are not finished\n"


def test_a_cell_that_diverges_is_recorded_and_the_grid_goes_on(
    ablation: Ablate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = "weighted_sum optimizer.codec.lr=1e30 trainer.max_skipped_steps=1"
    folder = ablation(f"strategies=['{broken}',encodec]", "baseline=encodec", "max_steps=5")
    name = "weighted_sum-optimizer.codec.lr-1e30-trainer.max_skipped_steps-1.default.seed0"
    assert finished(folder) == {name, "encodec.default.seed0"}
    found = entry(folder, name)
    assert "steps in a row up to step" in found["failure"]
    assert "\n" not in found["failure"]
    assert (found["scores"], found["clips"]) == ({}, {})
    assert 0 < found["steps"] < 5
    assert found["skipped_steps"] == 1
    assert f"{name}  failed: 1 steps in a row" in capsys.readouterr().out
    ablation(f"strategies=['{broken}',encodec]", "baseline=encodec", "max_steps=5")  # it is finished


def test_a_cell_that_cannot_be_run_is_told_when_the_others_are_done(
    ablation: Ablate, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Trainer.run

    def full(trainer: Trainer) -> dict[str, float]:
        if trainer.logger.folder.name.startswith("weighted_sum"):
            raise OSError("no space left")
        return run(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", full)
        with pytest.raises(RuntimeError) as caught:
            ablation("seeds=[0,1]")
    assert describe_error(caught.value) == "weighted_sum.default.seed0: no space left (and 1 more)"
    out, err = capfd.readouterr()
    assert "ablation.html" in out  # of the two that did not fail
    assert err == ""
    folder = ablation("seeds=[0,1]")
    assert len(finished(folder)) == 4
    assert not list(folder.glob("*.error.txt"))


def test_the_base_is_trained_once(
    base: Path, tmp_path: Path, ablation: Ablate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codec.training.logging.live_report.write_report", lambda folder, running: None)
    new = tmp_path / "new base"
    overrides = (
        f"base='{new}'",
        f"base_overrides={listed((*TINY, 'trainer.max_steps=2'))}",
        "strategies=[weighted_sum]",
    )
    ablation(*overrides)
    assert load_checkpoint(new).step == 2
    assert (new / "summary.txt").exists()
    kept = {path: path.stat().st_mtime_ns for path in new.rglob("*")}
    ablation(*overrides, "seeds=[0,1]")
    assert {path: path.stat().st_mtime_ns for path in new.rglob("*")} == kept


def test_a_strategy_in_a_folder_of_ones_own(ablation: Ablate, tmp_path: Path) -> None:
    (tmp_path / "mine" / "balancer").mkdir(parents=True)
    text = (
        (ROOT / "configs" / "balancer" / "encodec.yaml").read_text().replace("magnitude: keep", "magnitude: match_sum")
    )
    (tmp_path / "mine" / "balancer" / "third_party.yaml").write_text(text)
    folder = ablation("--config-dir", str(tmp_path / "mine"), "strategies=[weighted_sum,third_party]")
    assert entry(folder, "third_party.default.seed0")["failure"] is None


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["strategies=[weighted_sum,pcgard]"], "there is no balancer=pcgard: wanted one of "),
        (["strategies=[]"], "strategies must be a list of at least one, got []"),
        (["strategies=weighted_sum"], "strategies must be a list of at least one, got weighted_sum"),
        (["strategies=[weighted_sum,1]"], "strategies are names, with overrides behind them if there are any, got 1"),
        (["strategies=[weighted_sum,encodec,encodec]"], "two cells would be called encodec.default.seed0"),
        (['strategies=[weighted_sum,"encodec balancer.scale.decya=1"]'], "there is no setting balancer.scale.decya"),
        (['strategies=[weighted_sum,"encodec balancer.scale.decay=2"]'], "decay"),
        (["seeds=[]"], "seeds must be a list of at least one, got []"),
        (["seeds=[-1]"], "seeds must be whole numbers from 0 on, got -1"),
        (["weights=[]"], "weights must be a list of at least one, got []"),
        (["weights=[{adversarail:10}]"], "weights: there is no loss adversarail, only l1, mel, adversarial"),
        (["weights=[{adversarial:-1}]"], "weights must be a list of {loss: factor}, factors not negative, got"),
        (["weights=[adversarial]"], "weights must be a list of {loss: factor}, factors not negative, got"),
        (["metrics=[mel_distance,vizqol]"], "there is no metric vizqol; choose from si_sdr_db, visqol"),
        (["metrics=[]"], "metrics must be a list of at least one, got []"),
        (["max_minutes=1"], "must be set, got {'max_steps': 3, 'max_minutes': 1}"),
        (["max_steps=null"], "must be set, got none"),
        (["max_epochs=1"], "there is no setting max_epochs, only"),
        (["start=from_bsae"], "start must be from_base or from_scratch, got 'from_bsae'"),
        (["loss_ablations=[single_loss,left]"], "loss_ablations must be single_loss or leave_one_out, got 'left'"),
        (["baseline=pcgrad"], "baseline=pcgrad must be one of the strategies, got weighted_sum, encodec: add it, or"),
        (["magnitude=louder"], "there is no balancer/magnitude=louder: wanted one of fixed, keep"),
        (["experiments.from_base=abalation"], "there is no experiment=abalation: wanted one of"),
        (["overrides=[trainer.sed=1]"], "wanted group=name or path.to.key=value, got 'overrides=[trainer.sed=1]'"),
        (["overrides=['trainer.sed=1']"], "there is no setting trainer.sed, only _target_, max_steps"),
        (["overrides=['+tariner.sed=1']"], "there is no setting tariner, only name"),
        (["overrides=['codec=starter']"], "a codec of the same architecture is wanted, got another one"),
        (["name=../x"], "name must be that of a folder in "),
        (["strategeis=[encodec]"], "there is no setting strategeis, only name, runs_folder, strategies"),
        (["hydra/launcher=jobilb"], "there is no hydra/launcher=jobilb: wanted one of basic"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(overrides: list[str], wanted: str, ablation: Ablate, tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:
        ablation(*overrides)
    line = describe_error(caught.value)
    assert wanted in line
    assert "\n" not in line
    assert not (tmp_path / "tiny").exists()


def test_several_configurations_are_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["ablate", "--multirun", *settings(base, tmp_path), "max_steps=1,2"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith(
        "error: one ablation at a time is wanted, got several: the grid is strategies="
    )


def test_a_base_of_another_architecture_is_refused_before_it_is_trained(ablation: Ablate, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a codec of the same architecture is wanted") as caught:
        ablation(f"base={tmp_path / 'other'}", f"base_overrides={listed((*TINY, 'codec.config.latent_dim=4'))}")
    assert describe_error(caught.value).startswith(f"base={tmp_path / 'other'}: ")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("max_steps=4", "max_steps was 3, is 4"),
        ("start=from_scratch", "start was from_base, is from_scratch"),
        ("magnitude=fixed", "magnitude was None, is fixed"),
        ("metrics=[mel_distance]", "metrics was ['mel_distance', 'si_sdr_db'], is ['mel_distance']"),
    ],
)
def test_a_changed_condition_is_refused(override: str, difference: str, ablation: Ablate) -> None:
    folder = ablation("strategies=[weighted_sum]")
    text = (folder / "ablation.yaml").read_text()
    with pytest.raises(ValueError, match="holds a run with other settings") as caught:
        ablation("strategies=[weighted_sum,encodec]", override)
    assert difference in describe_error(caught.value)
    assert (folder / "ablation.yaml").read_text() == text


def test_a_cell_whose_strategy_has_changed_is_refused(ablation: Ablate) -> None:
    folder = ablation("strategies=[weighted_sum]")
    config = folder / "runs" / "weighted_sum.default.seed0" / "config.yaml"
    config.write_text(config.read_text().replace("monitor_every: 10", "monitor_every: 11"))
    with pytest.raises(ValueError, match="was 11, is 10") as caught:
        ablation()
    assert str(config.parent) in describe_error(caught.value)


def test_how_often_a_cell_is_saved_may_change(ablation: Ablate) -> None:
    folder = ablation("strategies=[weighted_sum]")
    config = folder / "runs" / "weighted_sum.default.seed0" / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("checkpoint: 2", "checkpoint: 1"))
    assert config.read_text() != text
    ablation("strategies=[weighted_sum]")
    config.write_text(text.replace("validate: 2", "validate: 1"))
    with pytest.raises(ValueError, match=r"trainer\.validate_every was 1, is 2"):
        ablation("strategies=[weighted_sum]")


# -------------------------------------------------------------------------------------------------------- scoring


def test_scores_are_means_over_the_clips_that_have_one() -> None:
    codec = started(tiny_codec())
    clips = [HeldOutClip(f"{group}-{i}", group, audio) for i, (group, audio) in enumerate(
        zip(("speech", "speech", "music"), tones(3, 3200, 9), strict=True)
    )]  # fmt: skip
    asked: dict[str, int] = defaultdict(int)

    def loudness(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
        assert estimate.shape == reference.shape
        assert sample_rate == 8000
        return reference.abs().amax((1, 2))

    def sometimes(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
        asked["stoi"] += 1
        return torch.tensor([math.nan if asked["stoi"] == 1 else 0.25])

    metrics = {
        "loudness": Metric("loudness", "loudness", loudness),
        "stoi": Metric("stoi", "STOI", sometimes, domain="speech"),
        "pesq": Metric("pesq", "PESQ", lambda e, r, sr: torch.tensor([math.nan]), domain="speech"),
    }
    scores, of_clips = score(codec, clips, 3.2, metrics, ["speech"])
    assert asked["stoi"] == 2  # not of the music
    peaks = [float(clip.audio.abs().max()) for clip in clips]
    assert scores["loudness"] == pytest.approx(np.mean(peaks))
    assert scores["stoi"] == 0.25
    assert math.isnan(scores["pesq"])
    assert [of_clips[clip.name]["group"] for clip in clips] == ["speech", "speech", "music"]
    assert math.isnan(of_clips["music-2"]["stoi"])
    with torch.no_grad():
        codes = torch.cat([codec.encode(clip.audio[None], 3.2)[0].codes[0] for clip in clips], dim=1).numpy()
    used, bits = [], []
    for book in codes:
        share = np.bincount(book, minlength=16) / len(book)
        used.append(np.mean(share > 0))
        bits.append(-sum(p * math.log2(p) for p in share if p))
    assert scores["codes_used"] == pytest.approx(np.mean(used))
    assert scores["bitrate_efficiency"] == pytest.approx(sum(bits) / (4 * 4))


def test_every_metric_of_the_ablation_scores() -> None:
    pytest.importorskip("visqol")
    audio = tones(1, 8000, 3)
    noisy = audio + 0.05 * torch.randn(audio.shape, generator=torch.Generator().manual_seed(0))
    found = {name: float(scores) for name, scores in score_audio(noisy, audio, 8000).items()}
    assert set(found) == set(composed("ablate").metrics)
    assert 0 < found["stoi"] < 1
    assert found["si_sdr_db"] > 5
    assert 1 < found["visqol"] < 5


def test_peak_memory_is_that_of_this_cell_alone() -> None:
    first = _PeakMemory()
    if first.read_mib(torch.device("cpu")) is None:
        pytest.skip("this system does not let the high-water mark fall")
    held = torch.ones(64 << 18)
    del held
    assert (first.read_mib(torch.device("cpu")) or 0) == pytest.approx(64, abs=8)
    second = _PeakMemory()
    assert (second.read_mib(torch.device("cpu")) or 0) < 8


# -------------------------------------------------------------------------------------------------------- display


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def log_step(cells: Path, name: str, step: int, seconds: float = 1.0) -> None:
    (cells / name).mkdir(parents=True, exist_ok=True)
    with open(cells / name / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"split": "train", "step": step, "seconds": seconds}) + "\n")


def end(cells: Path, name: str, failure: str | None = None) -> None:
    (cells / name).mkdir(parents=True, exist_ok=True)
    (cells / name / "result.json").write_text(json.dumps({"failure": failure, "steps": 10, "seconds": 61}))


def test_the_display_follows_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    end(tmp_path, "a")
    log_step(tmp_path, "b", 2)  # of an earlier session
    stream = io.StringIO()
    display = GridDisplay(tmp_path, ["a", "b", "c", "d"], TrainingConfig(max_steps=10), stream)
    display.refresh()
    assert stream.getvalue() == ""
    assert display.seconds_left() is None
    now[0] = 13.0
    end(tmp_path, "b")
    log_step(tmp_path, "c", 5)
    display.refresh()
    # 0.8 and 0.5 cells in 13 s, 1.5 are left
    assert display.seconds_left() == pytest.approx(15)
    assert stream.getvalue() == "b  10 steps in 1:01\n2/4 cells  0:15 left\n"
    with open(tmp_path / "c" / "metrics.jsonl", "a") as file:
        file.write('{"split": "tra')  # a line that is being written
    end(tmp_path, "d", "lost in 3 steps")
    display.refresh()
    assert stream.getvalue().splitlines()[2] == "d  failed: lost in 3 steps"


def test_the_display_on_a_terminal_names_the_cells_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    log_step(tmp_path, "asleep", 2)
    os.utime(tmp_path / "asleep" / "metrics.jsonl", (1, 1))
    stream = Terminal()
    display = GridDisplay(tmp_path, ["asleep", "busy", "scored"], TrainingConfig(max_minutes=1), stream)
    log_step(tmp_path, "busy", 3, seconds=30)
    log_step(tmp_path, "scored", 9, seconds=61)
    with display.shown():
        pass
    text = stream.getvalue()
    assert "0/3 cells" in text
    assert re.search(r"busy.*step 3", text)
    assert re.search(r"scored.*scoring", text)
    assert "asleep" not in text


def test_the_display_looks_by_itself_and_stops(tmp_path: Path) -> None:
    stream = io.StringIO()
    display = GridDisplay(tmp_path, ["a"], TrainingConfig(max_steps=10), stream)
    before = signal.getsignal(signal.SIGALRM)
    with display.shown():
        end(tmp_path, "a")
        deadline = time.monotonic() + 5
        while not stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert stream.getvalue() == "a  10 steps in 1:01\n1/1 cells\n"
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


# ------------------------------------------------------------------------------------------------------- launchers


def test_the_slurm_launcher_composes() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    overrides = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=30"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("ablate", overrides, return_hydra_config=True)
    launcher = cfg.hydra.launcher
    assert launcher._target_.endswith(".SlurmLauncher")
    assert (launcher.partition, launcher.timeout_min) == ("gpu", 30)
    OmegaConf.set_struct(cfg, False)
    cfg.hydra.job.name = "ablate"
    assert launcher.submitit_folder == "runs/ablations/starter/.submitit/%j"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers_run_cells_in_processes_of_their_own(launcher: str, base: Path, tmp_path: Path) -> None:
    module = f"hydra_plugins.hydra_{launcher.removesuffix('_local')}_launcher"
    pytest.importorskip(module)
    limits = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    command = [
        *(sys.executable, "-m", "scripts.ablate", *settings(base, tmp_path), "seeds=[3]", f"hydra/launcher={launcher}"),
        *limits,
        f"overrides={listed((*TINY, 'data.num_workers=1'))}",  # whose process joblib would start in a way of its own
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "tiny"
    assert finished(folder) == {"weighted_sum.default.seed3", "encodec.default.seed3"}
    assert "2/2 cells" in done.stdout
    assert (folder / "ablation.html").stat().st_size > 10_000
    assert len((folder / "results.csv").read_text().splitlines()) == 3
    left = {path.name for path in folder.iterdir()} - {".submitit"}
    assert left == {"ablation.yaml", "ablation.html", "results.csv", "runs"}


@pytest.mark.slow
def test_a_stopped_grid_goes_on(base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.ablate", *settings(base, tmp_path), "max_steps=60"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    checkpoints = tmp_path / "tiny" / "runs" / "weighted_sum.default.seed0" / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("step_*.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (
        130,
        "stopped; the same command goes on with the cells that are not finished\n",
    )
    assert finished(tmp_path / "tiny") == set()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert finished(tmp_path / "tiny") == {"weighted_sum.default.seed0", "encodec.default.seed0"}
    assert "resumed at step" in (checkpoints.parent / "log.txt").read_text()
