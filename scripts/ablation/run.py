"""Trains one run of an ablation, scores it on all held-out clips, and writes result.json."""

import ctypes
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from codec import Codec
from codec.atomic_file import atomic_write
from codec.evaluation import METRICS, Metric, count_codes, score_codes, select_metrics, select_speech_groups
from codec.training import Trainer, TrainingError
from codec.training.startup.malloc import keep_freed_memory
from data import HeldOutClip
from scripts.ablation.grid import (
    BASE,
    START,
    GridRun,
    ablation_folder,
    base_config,
    grid_runs,
    run_config,
    start_runs,
)
from scripts.ablation.search import best_overrides, search_runs
from scripts.composition import open_run
from scripts.errors import describe_error
from scripts.run_folder import resolve
from scripts.train import run

__all__ = ["error_path", "peak_memory_mib", "perform", "run_job", "score", "start_process"]

ROOT = Path(__file__).resolve().parents[2]
_RESUME_COMMAND = "the command of the ablation"


def run_job(cfg: DictConfig) -> None:
    """Runs the job `cfg.job` in a process of its own: trains the common checkpoint, or trains and scores one run.

    Hydra's launcher calls this, in this process or in another one. An error is written to `error_path` and not raised,
    because Hydra would print lines of its own. A run that diverges is not an error: result.json records the failure.
    """
    path = error_path(ablation_folder(cfg), cfg.job)
    path.unlink(missing_ok=True)
    is_base = cfg.job == BASE
    runs = {**start_runs(cfg), **search_runs(cfg), **grid_runs(cfg, best_overrides(cfg))}
    grid_run = None if is_base else runs[cfg.job]
    train = base_config(cfg) if grid_run is None else run_config(cfg, grid_run)
    number = HydraConfig.get().job.num if HydraConfig.initialized() else 0
    status = start_process(
        {
            "job": cfg.job,
            "train": resolve(train),
            "run": None if grid_run is None else grid_run._asdict(),
            "metrics": list(cfg.metrics),
            "speech_groups": None if cfg.speech_groups is None else list(cfg.speech_groups),
            "error_path": str(path),
            "environment": _own_gpu(train.trainer.device, number),
        }
    )
    if status and not path.exists():
        path.write_text(f"{cfg.job}: its process ended with status {status}; -9 is often a lack of memory", "utf-8")


def _own_gpu(device: str, job_number: int) -> dict[str, str]:
    """Environment that shows a job one GPU only: jobs that run at once are spread over all of them.

    Args:
        device: `trainer.device`; a certain GPU is left as it is.
    """
    count = torch.cuda.device_count()
    if device not in ("auto", "cuda") or count < 2:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    return {"CUDA_VISIBLE_DEVICES": visible[job_number % count]}


def start_process(job: Mapping[str, Any]) -> int:
    """Calls `perform` with `job` in a new Python process, so that the peak memory of a run is its own.

    If this process is interrupted, the other one saves its run and ends first. It is not in the process group of the
    terminal, so Ctrl-C reaches it only from here, once.

    Returns:
        The exit status, negative for a signal.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path} | job["environment"]
    command = [sys.executable, "-m", "scripts.ablation.run"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, text=True, process_group=0)
    try:
        process.communicate(json.dumps(job))
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    return process.returncode


def perform(job: Mapping[str, Any]) -> None:
    """Does what `run_job` describes; see there for the keys of `job`."""
    train = OmegaConf.create(job["train"])
    try:
        if job["run"] is None:
            run(train, _RESUME_COMMAND)
        else:
            _train_and_score(train, GridRun(**job["run"]), select_metrics(job["metrics"]), job["speech_groups"])
    except Exception as error:
        Path(job["error_path"]).write_text(f"{job['job']}: {describe_error(error)}", encoding="utf-8")


def error_path(folder: Path, job: str) -> Path:
    """The file that holds the error message of a failed job of the ablation in `folder`."""
    return folder / f"{job}.error.txt"


def _train_and_score(
    train: DictConfig, grid_run: GridRun, metrics: Mapping[str, Metric], speech_groups: Sequence[str] | None
) -> None:
    failure: str | None = None
    scores: dict[str, float] = {}
    clips: dict[str, dict[str, Any]] = {}
    with open(os.devnull, "w") as nowhere, open_run(train, nowhere, resume_command=_RESUME_COMMAND) as trainer:
        try:
            if grid_run.folder != START:
                trainer.run()
        except TrainingError as error:
            failure = " ".join(str(error).split())
        peak_mib = peak_memory_mib(trainer.device)
        if failure is None:
            trainer.logger.message("scoring")
            scores, clips = score(
                trainer.averaged_codec,
                trainer.validation.clips,
                train.validation.bandwidth_kbps,
                metrics,
                speech_groups,
            )
        result = {
            "run": grid_run.name,
            "strategy": grid_run.strategy,
            "weights": grid_run.weights,
            "weight_factors": dict(grid_run.weight_factors),
            "loss_ablation": grid_run.loss_ablation,
            "override": grid_run.override,
            "seed": grid_run.seed,
            "steps": trainer.step,
            "seconds": round(trainer.seconds, 3),
            "seconds_per_step": round(_seconds_per_step(trainer), 6),
            "peak_memory_mib": peak_mib,
            "skipped_steps": trainer.skipped.total,
            "failure": failure,
            "scores": scores,
            "clips": clips,
        }
        with atomic_write(trainer.logger.folder / "result.json") as temporary:
            temporary.write_text(json.dumps(_nan_to_none(result), indent=1, allow_nan=False), encoding="utf-8")


@torch.no_grad()
def score(
    codec: Codec,
    clips: Sequence[HeldOutClip],
    bandwidth_kbps: float,
    metrics: Mapping[str, Metric],
    speech_groups: Sequence[str] | None = None,
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Encodes and decodes the clips at one bandwidth and compares the result with the original.

    Args:
        metrics: Metrics of audio and of codes; the registered metrics of codes are added.
        speech_groups: Groups of clips that metrics of speech are computed for; None for the rule of
            `select_speech_groups`.

    Returns:
        The metrics of codes over all clips. Then the group and the scores of each clip; a score that is not defined is
        NaN.
    """
    audio_metrics = {name: metric for name, metric in metrics.items() if metric.domain != "codes"}
    speech = select_speech_groups(dict.fromkeys(clip.group for clip in clips), speech_groups)
    config = codec.config
    device = next(codec.parameters()).device
    sizes = list(config.codebook_sizes[: config.codebooks_for(bandwidth_kbps)])
    counts = torch.zeros(len(sizes), max(sizes), dtype=torch.int64, device=device)
    per_clip: dict[str, dict[str, Any]] = {}
    for clip in clips:
        reference = clip.audio[None].to(device)
        segments = codec.encode_segments(reference, bandwidth_kbps)
        for segment in segments:
            counts += count_codes(segment.codes, sizes)
        estimate = codec.decode_segments(segments, reference.shape[-1])
        per_clip[clip.name] = {"group": clip.group}
        for name, metric in audio_metrics.items():
            applies = metric.domain != "speech" or clip.group in speech
            value = float(metric.function(estimate, reference, config.sample_rate)) if applies else math.nan
            per_clip[clip.name][name] = value
    return score_codes(counts, sizes, {**METRICS, **metrics}), per_clip


def _seconds_per_step(trainer: Trainer) -> float:
    """Median over the log intervals, without validation and checkpoints; NaN if no interval was logged."""
    if not trainer.step:
        return math.nan
    lines = (trainer.logger.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    speeds = [r["audio_seconds_per_second"] for r in records if r.get("audio_seconds_per_second")]
    return float(np.median(trainer.data.seconds_per_step / np.array(speeds))) if speeds else math.nan


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _nan_to_none(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def peak_memory_mib(device: torch.device) -> float | None:
    """Peak memory of this process: what torch allocated on a GPU; on a CPU all of it, with Python and torch (Linux)."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None
    return None if found is None else round(int(found[1]) / 1024, 1)


def _end_with_parent() -> None:
    """Lets Linux send SIGTERM to this process when its parent dies: a killed ablation leaves nothing running."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def main() -> None:
    """Reads a job from standard input and performs it. Exit status 143 if interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # outside of training, which has its own handler
    _end_with_parent()
    keep_freed_memory()
    try:
        perform(json.load(sys.stdin))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
