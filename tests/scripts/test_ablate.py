"""The ablation command: fairness between runs, results, resuming, failures, and refused settings."""

import hashlib
import json
import re
import shutil
import signal
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from torch import Tensor

from codec.training import AdversarialTraining, Trainer, load_checkpoint
from forks import Forks
from printed import only_line
from scripts.ablate import ablate, main
from scripts.ablation.run import perform
from scripts.errors import describe_error
from tiny_command import ROOT, TINY, TINY_SEANET, composed, listed
from tiny_run import exported

BOTH = {"weighted_sum.default.seed0", "encodec.default.seed0"}
# For runs whose scores and checkpoints are not tested.
UNWATCHED = ("trainer.validate_every=1000", "trainer.checkpoint_every=1000")


def in_this_process(job: dict[str, Any]) -> int:
    """In place of `start_process`, which takes seconds for its imports. The job goes through JSON here, too."""
    perform(json.loads(json.dumps(job)))
    return 0


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors as exceptions, and no HTML page, which takes longer than the training."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(
        "scripts.ablate.write_ablation_report",
        lambda folder, baseline, metrics, search_scores: folder / "ablation.html",
    )
    monkeypatch.setattr("scripts.ablation.run.start_process", in_this_process)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training run."""
    runs = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codec.training.logging.live_report.write_report", lambda folder, running: None)
        from scripts.train import run

        run(composed("train", *TINY, "name=base", f"runs_folder={runs}", "trainer.max_steps=2"))
    return runs / "base"


def settings(base: Path, runs_folder: Path) -> list[str]:
    """Two strategies, one seed, three steps."""
    return [
        "name=tiny", f"runs_folder={runs_folder}", f"base={base}",
        f"overrides={listed(TINY_SEANET)}", f"base_overrides={listed(TINY_SEANET)}",
        "strategies=[weighted_sum,encodec]", "seeds=[0]", "max_steps=3", "metrics=[mel_distance,si_sdr_db]",
    ]  # fmt: skip


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


@pytest.fixture(scope="module")
def finished_folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished ablation with the default `settings`. Tests change only copies of it."""
    runs_folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRA_FULL_ERROR", "1")
        patch.setattr(
            "scripts.ablate.write_ablation_report",
            lambda folder, baseline, metrics, search_scores: folder / "ablation.html",
        )
        patch.setattr("scripts.ablation.run.start_process", in_this_process)
        patch.setattr(sys, "argv", ["ablate", *settings(base, runs_folder)])
        ablate()
    return runs_folder / "tiny"


@pytest.fixture
def finished_copy(finished_folder: Path, tmp_path: Path) -> Path:
    """A copy of `finished_folder` where `ablation` looks for it."""
    shutil.copytree(finished_folder, tmp_path / "tiny")
    return tmp_path / "tiny"


def result(folder: Path, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs" / run / "result.json").read_text())
    return found


def finished(folder: Path) -> set[str]:
    return {path.parent.name for path in (folder / "runs").glob("*/result.json")}


def metric_lines(folder: Path, run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs" / run / "metrics.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------------------------------------------------- fairness


class Recorder:
    """Records the initial state, the batches and the random draws of every run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: dict[str, list[str]] = defaultdict(list)
        self.updates: dict[str, list[bool]] = defaultdict(list)
        self.codebooks: dict[str, list[float]] = defaultdict(list)
        self.starts: dict[str, str] = {}
        self._run = ""
        step, generator_losses = Trainer.train_step, AdversarialTraining.generator_losses

        def train_step(trainer: Trainer, audio: Tensor) -> dict[str, Tensor]:
            self._run = trainer.logger.folder.name
            if trainer.step == 0:
                state = trainer.state_dict()
                self.starts[self._run] = _digest(*(state[part] for part in ("codec", "average", "adversarial")))
            self.batches[self._run].append(_digest(audio))
            metrics = step(trainer, audio)
            self.codebooks[self._run].append(float(metrics["num_codebooks"]))
            return metrics

        def recorded_losses(
            adversarial: AdversarialTraining, estimate: Tensor, reference: Tensor, update: bool, *rest: Any
        ) -> Any:
            self.updates[self._run].append(update)
            return generator_losses(adversarial, estimate, reference, update, *rest)

        monkeypatch.setattr(Trainer, "train_step", train_step)
        monkeypatch.setattr(AdversarialTraining, "generator_losses", recorded_losses)

    def of(self, run: str) -> tuple[Any, ...]:
        return self.starts[run], self.batches[run], self.codebooks[run], self.updates[run]


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
def test_all_strategies_of_one_seed_get_the_same_start_batches_and_draws(
    start: str, strategies: list[str], ablation: Ablate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rlw and pcgrad draw from their own generators. The last strategy draws from the global ones, without effect."""
    recorder = Recorder(monkeypatch)
    drawing = "weighted_sum balancer.scale._target_=outside_parts.DrawingScale"
    plan = (f"start={start}", f"overrides={listed((*TINY_SEANET, *UNWATCHED))}", "metrics=[si_sdr_db]")
    folder = ablation(f"strategies={listed((*strategies, drawing))}", *plan)
    ablation("strategies=[weighted_sum]", "seeds=[0,1]", *plan)
    names = [*strategies, "weighted_sum-balancer.scale._target_-outside_parts.DrawingScale"]
    assert finished(folder) == {*(f"{name}.default.seed0" for name in names), "weighted_sum.default.seed1"}
    seen = {seed: recorder.of(f"weighted_sum.default.seed{seed}") for seed in (0, 1)}
    for name in names:
        assert recorder.of(f"{name}.default.seed0") == seen[0], name
    # Seeds differ in the batches and draws, and in the start unless it is a common checkpoint.
    assert seen[0][1:] != seen[1][1:]
    assert (seen[0][0] == seen[1][0]) == (start == "from_base")
    # Strategies lead to different models; drawing from the global generators does not.
    models = [exported(folder / "runs" / f"{name}.default.seed0") for name in names]
    assert models[0] == models[-1]
    assert models[0] != models[1]


def test_a_search_runs_first_and_the_grid_uses_what_it_found(
    ablation: Ablate, capfd: pytest.CaptureFixture[str]
) -> None:
    """A learning rate of 0 keeps the checkpoint; one of 1e30 diverges, so 0 is found, wherever it stands."""
    search = ("search.setting=optimizer.codec.lr", "search.candidates=[1e30,0.0]", "search.max_steps=2")
    settings = ("strategies=[{named: encodec}]", "baseline=named", *search)
    folder = ablation(*settings)
    names = {path.parent.name for path in (folder / "search").glob("*/result.json")}
    assert names == {f"named.search.optimizer.codec.lr-{rate}.seed1000" for rate in ("1e-30", "0.0")}
    name = "named.default.seed0"
    assert finished(folder) == {name}
    assert result(folder, name)["override"] == "optimizer.codec.lr=0.0"
    assert OmegaConf.load(folder / "runs" / name / "config.yaml").optimizer.codec.lr == 0
    steps = {line["step"] for name in names for line in metric_lines(folder, f"../search/{name}")}
    assert max(steps) == 2
    trained = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    capfd.readouterr()
    ablation(*settings)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")} == trained


# --------------------------------------------------------------------------------------------- results and resuming


def test_result_and_files_of_a_run(ablation: Ablate, base: Path) -> None:
    folder = ablation("strategies=[encodec]", "baseline=encodec", "weights=[{adversarial:10}]")
    name = "encodec.adversarial-x10.seed0"
    found = result(folder, name)
    assert {key: found[key] for key in list(found)[:9]} == {
        "run": name,
        "strategy": "encodec",
        "weights": "adversarial-x10",
        "weight_factors": {"adversarial": 10},
        "loss_ablation": None,
        "override": None,
        "seed": 0,
        "steps": 3,
        "seconds": found["seconds"],
    }
    assert 0 < found["seconds_per_step"] < found["seconds"]
    assert (found["skipped_steps"], found["failure"]) == (0, None)
    assert set(found["scores"]) == {"codes_used", "bitrate_efficiency"}
    assert {clip["group"] for clip in found["clips"].values()} == {"speech", "music", "effects"}
    # The last validation measures the same codec on the same clips.
    last = [line for line in metric_lines(folder, name) if line["split"] == "validation"][-1]
    for clip in found["clips"].values():  # one of each group
        assert last[f"{clip['group']}/mel_distance"] == pytest.approx(clip["mel_distance"], rel=1e-6)
    run = folder / "runs" / name
    for file in ("config.yaml", "metrics.jsonl", "model.safetensors", "log.txt", "checkpoints", "samples"):
        assert (run / file).exists()
    log = (run / "log.txt").read_text()
    assert str(base) in log
    assert "step 2" in log
    assert sorted(path.name for path in folder.iterdir()) == ["ablation.yaml", "runs", "start"]  # no files of Hydra
    saved: Any = OmegaConf.to_container(OmegaConf.load(folder / "ablation.yaml"))
    assert saved["weights"] == [{"adversarial": 10}]
    assert "job" not in saved
    assert "hydra" not in saved


def test_the_console_shows_progress_scores_and_paths(ablation: Ablate, capfd: pytest.CaptureFixture[str]) -> None:
    folder = ablation()
    out, err = capfd.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert re.fullmatch(r"weighted_sum\.default\.seed0  3 steps in \d+:\d\d", lines[0])
    assert lines[lines.index("2/2 runs") - 1].startswith("encodec.default.seed0  3 steps in")
    assert not any("validation" in line or "x real time" in line for line in lines)
    assert any(line.split()[:1] == ["encodec"] for line in lines)  # the table of scores
    assert [line.split()[-1] for line in lines[-3:]] == [
        str(folder / name) for name in ("ablation.html", "results.csv", "runs")
    ]


def test_finished_runs_are_kept_and_the_grid_can_grow(
    ablation: Ablate, finished_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in (finished_copy / "runs").rglob("*") if path.is_file()}
    trained: list[str] = []
    step = Trainer.train_step

    def recorded(trainer: Trainer, audio: Tensor) -> dict[str, Tensor]:
        trained.append(trainer.logger.folder.name)
        return step(trainer, audio)

    monkeypatch.setattr(Trainer, "train_step", recorded)
    ablation()
    assert trained == []
    ablation("strategies=[encodec,rlw]", "baseline=encodec", "seeds=[0,1]")
    assert set(trained) == {"encodec.default.seed1", "rlw.default.seed0", "rlw.default.seed1"}
    assert {path: path.read_bytes() for path in before} == before


def test_the_checkpoint_itself_is_scored_without_a_step(finished_folder: Path) -> None:
    start = json.loads((finished_folder / "start" / "checkpoint" / "result.json").read_text())
    assert start["steps"] == 0
    lines = metric_lines(finished_folder, "encodec.default.seed0")
    first, *_, last = (line for line in lines if line["split"] == "validation")
    assert first["step"] == 0
    for group in {clip["group"] for clip in start["clips"].values()}:
        mean = np.mean([clip["si_sdr_db"] for clip in start["clips"].values() if clip["group"] == group])
        assert mean == pytest.approx(first[f"{group}/si_sdr_db"], abs=1e-4)
        assert first[f"{group}/si_sdr_db"] != last[f"{group}/si_sdr_db"]


def test_an_interrupted_run_resumes_from_its_checkpoint(ablation: Ablate, monkeypatch: pytest.MonkeyPatch) -> None:
    step, plan = Trainer.train_step, ("strategies=[encodec]", "baseline=encodec")

    def interrupted(trainer: Trainer, audio: Tensor) -> dict[str, Tensor]:
        if (trainer.logger.folder.name, trainer.step) == ("encodec.default.seed0", 2):
            raise KeyboardInterrupt
        return step(trainer, audio)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ablation(*plan)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    folder = ablation(*plan)
    assert finished(folder) == {"encodec.default.seed0"}
    assert "resumed at step 2" in (folder / "runs" / "encodec.default.seed0" / "log.txt").read_text()
    steps = [line["step"] for line in metric_lines(folder, "encodec.default.seed0") if line["split"] == "train"]
    assert steps == [1, 2, 3]


def test_ctrl_c_exits_with_130_and_says_how_to_continue(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(trainer: Trainer, audio: Tensor) -> dict[str, Tensor]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    monkeypatch.setenv("STARTED_AS", "bash scripts/ablate.sh")
    monkeypatch.setattr(sys, "argv", ["ablate", *settings(base, tmp_path)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 130
    line = only_line(capsys.readouterr().err)
    assert "bash scripts/ablate.sh" in line


def test_a_diverged_run_is_recorded_and_the_others_continue(
    ablation: Ablate, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = "weighted_sum optimizer.codec.lr=1e30 trainer.max_skipped_steps=1"
    overrides = (f"strategies=['{broken}',encodec]", "baseline=encodec", "max_steps=5")
    folder = ablation(*overrides)
    name = "weighted_sum-optimizer.codec.lr-1e30-trainer.max_skipped_steps-1.default.seed0"
    assert finished(folder) == {name, "encodec.default.seed0"}
    found = result(folder, name)
    assert "step" in found["failure"]
    assert "\n" not in found["failure"]
    assert (found["scores"], found["clips"]) == ({}, {})
    assert 0 < found["steps"] < 5
    assert found["skipped_steps"] == 1
    assert f"{name}  failed: {found['failure']}" in capsys.readouterr().out
    ablation(*overrides)
    assert result(folder, name) == found  # not trained again


def test_an_error_of_one_job_is_raised_after_the_other_jobs(
    ablation: Ablate, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Trainer.run

    def full(trainer: Trainer) -> dict[str, float]:
        if trainer.logger.folder.name.startswith("weighted_sum"):
            raise OSError("no space left")
        return run(trainer)

    plan = ("seeds=[0,1]", "max_steps=1", f"overrides={listed((*TINY_SEANET, *UNWATCHED))}", "metrics=[si_sdr_db]")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", full)
        with pytest.raises(RuntimeError) as caught:
            ablation(*plan)
    assert describe_error(caught.value) == "weighted_sum.default.seed0: no space left (and 1 more)"
    out, err = capfd.readouterr()
    assert "ablation.html" in out
    assert err == ""
    folder = ablation(*plan)
    assert len(finished(folder)) == 4
    assert not list(folder.glob("*.error.txt"))


def test_the_base_is_trained_once(
    tmp_path: Path, ablation: Ablate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("codec.training.logging.live_report.write_report", lambda folder, running: None)
    new = tmp_path / "new base"
    overrides = (
        f"base='{new}'",
        f"base_overrides={listed((*TINY_SEANET, 'trainer.max_steps=2'))}",
        f"overrides={listed((*TINY_SEANET, *UNWATCHED))}",
        "strategies=[weighted_sum]",
        "metrics=[si_sdr_db]",
    )
    ablation(*overrides)
    assert f"All runs start from {new}, a run of experiment=starter_seanet" in capsys.readouterr().out
    assert load_checkpoint(new).step == 2
    assert (new / "summary.txt").exists()
    before = {path: path.stat().st_mtime_ns for path in new.rglob("*")}
    ablation(*overrides, "seeds=[0,1]")
    assert {path: path.stat().st_mtime_ns for path in new.rglob("*")} == before


def test_a_strategy_in_the_users_config_folder(ablation: Ablate, tmp_path: Path) -> None:
    (tmp_path / "mine" / "balancer").mkdir(parents=True)
    text = (ROOT / "configs" / "balancer" / "encodec.yaml").read_text()
    assert "magnitude: keep" in text
    text = text.replace("magnitude: keep", "magnitude: match_sum")
    (tmp_path / "mine" / "balancer" / "third_party.yaml").write_text(text)
    config_dir = ("--config-dir", str(tmp_path / "mine"))
    folder = ablation(*config_dir, "strategies=[third_party]", "baseline=third_party")
    assert result(folder, "third_party.default.seed0")["failure"] is None


# ----------------------------------------------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["strategies=[weighted_sum,pcgard]"], ["balancer=pcgard", "pcgrad"]),
        (["strategies=[weigthed_sum,encodec]"], ["balancer=weigthed_sum", "weighted_sum"]),
        (['strategies=[weighted_sum,"encodec balancer.scale.decya=1"]'], ["balancer.scale.decya", "decay"]),
        (['strategies=[weighted_sum,"encodec balancer.scale.decay=2"]'], ["decay"]),
        (["metrics=[mel_distance,vizqol]"], ["metrics", "vizqol", "visqol"]),
        (["max_epochs=1"], ["max_epochs", "max_steps"]),
        (["magnitude=louder"], ["balancer/magnitude=louder", "fixed, keep"]),
        (["experiments.from_base=abalation"], ["experiment=abalation", "ablation"]),
        (["overrides=[trainer.sed=1]"], ["overrides", "[trainer.sed=1]", "quote"]),
        (["overrides=['trainer.sed=1']"], ["trainer.sed", "seed"]),
        (["overrides=['+tariner.sed=1']"], ["tariner", "trainer"]),
        (["overrides=['codec=starter_seanet']"], ["base=", "architecture", "in overrides"]),
        (["strategeis=[encodec]"], ["strategeis", "strategies"]),
        (["hydra/launcher=jobilb"], ["hydra/launcher=jobilb", "joblib"]),
    ],
)  # fmt: skip
def test_mistakes_are_reported_in_one_line_before_training(
    overrides: list[str], named: list[str], ablation: Ablate, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match=r"\S") as caught:
        ablation(*overrides)
    line = describe_error(caught.value)
    assert "\n" not in line
    for text in named:
        assert text in line
    assert not (tmp_path / "tiny").exists()


def test_multirun_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["ablate", "--multirun", *settings(base, tmp_path), "max_steps=1,2"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    line = only_line(capsys.readouterr().err)
    assert line.startswith("error: ")
    assert "strategies=" in line


@pytest.mark.parametrize("exists", [False, True])
def test_a_base_that_is_no_run_is_refused(exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typo = tmp_path / "typo"
    if exists:
        typo.mkdir()
    monkeypatch.setattr(sys, "argv", ["ablate", "name=tiny", f"runs_folder={tmp_path}", f"base={typo}"])
    with pytest.raises(ValueError, match=r"there is no run in this folder; to train one there, .*experiments\.base="):
        ablate()
    assert typo.exists() == exists
    assert not (tmp_path / "tiny").exists()


def test_a_base_of_another_architecture_is_refused_before_it_is_trained(ablation: Ablate, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="architecture") as caught:
        ablation(f"base={tmp_path / 'other'}", f"base_overrides={listed((*TINY_SEANET, 'codec.network.latent_dim=4'))}")
    assert describe_error(caught.value).startswith(f"base={tmp_path / 'other'}: ")
    assert not (tmp_path / "other").exists()


def test_changed_settings_are_refused(ablation: Ablate, finished_copy: Path) -> None:
    text = (finished_copy / "ablation.yaml").read_text()
    for override, change in (
        ("max_steps=4", "max_steps was 3, is 4"),
        ("start=from_scratch", "start was from_base, is from_scratch"),
        ("magnitude=fixed", "magnitude was None, is fixed"),
        ("metrics=[mel_distance]", "metrics was ['mel_distance', 'si_sdr_db'], is ['mel_distance']"),
    ):
        with pytest.raises(ValueError, match=re.escape(change)):
            ablation(override)
    assert (finished_copy / "ablation.yaml").read_text() == text


def test_changed_settings_of_a_run_are_refused_unless_they_do_not_affect_it(
    ablation: Ablate, finished_copy: Path
) -> None:
    config = finished_copy / "runs" / "encodec.default.seed0" / "config.yaml"
    text = config.read_text()
    for old, new, change in (
        ("monitor_every: 10", "monitor_every: 11", "balancer.monitor_every was 11, is 10"),
        ("validate_every: 2", "validate_every: 1", "trainer.validate_every was 1, is 2"),
    ):
        assert old in text
        config.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=re.escape(change)) as caught:
            ablation()
        assert str(config.parent) in describe_error(caught.value)
    assert "checkpoint_every: 2" in text
    config.write_text(text.replace("checkpoint_every: 2", "checkpoint_every: 1"))
    ablation()


# -------------------------------------------------------------------------------------------------- other processes

# Data workers fail under joblib's start method.
IN_A_PROCESS = ("start=from_scratch", f"overrides={listed((*TINY_SEANET, 'data.num_workers=1'))}")


@pytest.mark.slow
def test_joblib_runs_jobs_in_two_processes(base: Path, tmp_path: Path, forks: Forks) -> None:
    """The command is a process, too. It has no output but its own, and leaves no files of Hydra."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = forks.run(tmp_path, "ablate", *settings(base, tmp_path), *IN_A_PROCESS, *launcher, report=True)
    assert (done.status, done.stderr) == (0, "")
    folder = tmp_path / "tiny"
    assert finished(folder) == BOTH
    assert "2/2 runs" in done.stdout
    assert (folder / "ablation.html").stat().st_size > 10_000
    assert len((folder / "results.csv").read_text().splitlines()) == 1 + 2  # heading
    assert {path.name for path in folder.iterdir()} == {
        "ablation.yaml", "ablation.html", "ablation.md", "results.csv", "runs"
    }  # fmt: skip


@pytest.mark.slow
def test_submitit_runs_a_job_in_another_process(
    ablation: Ablate, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.chdir(ROOT)  # the other process imports `scripts` from its folder
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = ablation("strategies=[encodec]", "baseline=encodec", *IN_A_PROCESS, "hydra/launcher=submitit_local")
    out, err = capfd.readouterr()
    assert "1/1 runs" in out
    assert err == ""
    assert finished(folder) == {"encodec.default.seed0"}
    assert {path.name for path in folder.iterdir()} == {".submitit", "ablation.yaml", "runs"}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_grid_that_is_stopped_saves_its_run_and_says_how_to_continue(
    number: signal.Signals, status: int, base: Path, tmp_path: Path, ablation: Ablate, forks: Forks
) -> None:
    # Many steps, so that the run does not end before the signal; the last override ends the command.
    training = listed((*TINY_SEANET, "trainer.validate_every=1000"))
    overrides = ["start=from_scratch", "strategies=[weighted_sum]", f"overrides={training}", "max_steps=20"]
    run = tmp_path / "tiny" / "runs" / "weighted_sum.default.seed0"
    kill = f"{number.name} when {run / 'checkpoints' / 'step_0000002.pt'} exists"
    started = {"STARTED_AS": "bash scripts/ablate.sh"}
    returned, _, errors = forks.run(tmp_path, "ablate", *settings(base, tmp_path), *overrides, kill=kill, **started)
    assert returned == status, errors
    line = only_line(errors)
    assert "bash scripts/ablate.sh" in line
    assert line.endswith(overrides[-1])
    saved = re.search(r"saved at step (\d+); resume with: the command of the ablation", (run / "log.txt").read_text())
    assert saved
    assert finished(tmp_path / "tiny") == set()
    if number == signal.SIGTERM:  # both signals save in the same way
        assert finished(ablation(*overrides)) == {"weighted_sum.default.seed0"}
        assert f"resumed at step {saved[1]}" in (run / "log.txt").read_text()
