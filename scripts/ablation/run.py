"""Trains one run of an ablation, scores it on all held-out clips, and writes result.json."""

import ctypes
import gc
import json
import math
import multiprocessing
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from codec import Codec
from codec.atomic_file import atomic_write
from codec.evaluation import METRICS, Metric, count_codes, score_codes, select_metrics
from codec.training import Trainer, TrainingError
from codec.training.startup.malloc import keep_freed_memory
from data import HeldOutClip
from scripts.ablation.grid import BASE, GridRun, ablation_folder, base_config, grid_runs, run_config
from scripts.command_line import describe_error
from scripts.composition import open_run
from scripts.train import run

__all__ = ["error_path", "run_job", "score"]


def run_job(cfg: DictConfig) -> None:
    """Runs the job `cfg.job`: trains the common checkpoint, or trains and scores one run.

    Hydra's launcher calls this, in this process or in another one. An error is written to `error_path` and not raised,
    because Hydra would print lines of its own. A run that diverges is not an error: result.json records the failure.
    """
    keep_freed_memory()
    multiprocessing.set_start_method(None, force=True)  # data workers do not start under joblib's start method
    path = error_path(ablation_folder(cfg), cfg.job)
    path.unlink(missing_ok=True)
    try:
        if cfg.job == BASE:
            run(base_config(cfg))
        else:
            _train_and_score(cfg, grid_runs(cfg)[cfg.job])
    except Exception as error:
        path.write_text(f"{cfg.job}: {describe_error(error)}", encoding="utf-8")


def error_path(folder: Path, job: str) -> Path:
    """The file that holds the error message of a failed job of the ablation in `folder`."""
    return folder / f"{job}.error.txt"


def _train_and_score(cfg: DictConfig, grid_run: GridRun) -> None:
    train = run_config(cfg, grid_run)
    failure: str | None = None
    scores: dict[str, float] = {}
    clips: dict[str, dict[str, Any]] = {}
    memory = _PeakMemory()
    with open(os.devnull, "w") as nowhere, open_run(train, nowhere) as trainer:
        try:
            trainer.run()
        except TrainingError as error:
            failure = " ".join(str(error).split())
        peak_mib = memory.read_mib(trainer.device)
        if failure is None:
            trainer.logger.message("scoring")
            scores, clips = score(
                trainer.averaged_codec,
                trainer.validation.clips,
                train.validation.bandwidth_kbps,
                select_metrics(cfg.metrics),
                cfg.speech_groups,
            )
        result = {
            "run": grid_run.name,
            "strategy": grid_run.strategy,
            "weights": grid_run.weights,
            "weight_factors": dict(grid_run.weight_factors),
            "loss_ablation": grid_run.loss_ablation,
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
    clips: Iterable[HeldOutClip],
    bandwidth_kbps: float,
    metrics: Mapping[str, Metric],
    speech_groups: Sequence[str],
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Encodes and decodes the clips at one bandwidth and compares the result with the original.

    Args:
        metrics: Metrics of audio and of codes; the registered metrics of codes are added.
        speech_groups: Groups of clips that metrics of speech are computed for.

    Returns:
        Scores by name: metrics of audio are means over the clips where they are finite. Then the group and the scores
        of each clip; a score that is not defined is NaN.
    """
    audio_metrics = {name: metric for name, metric in metrics.items() if metric.domain != "codes"}
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
            applies = metric.domain != "speech" or clip.group in speech_groups
            value = float(metric.function(estimate, reference, config.sample_rate)) if applies else math.nan
            per_clip[clip.name][name] = value
    means = {name: _finite_mean([scores[name] for scores in per_clip.values()]) for name in audio_metrics}
    return means | score_codes(counts, sizes, {**METRICS, **metrics}), per_clip


def _finite_mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def _seconds_per_step(trainer: Trainer) -> float:
    """Median over the log intervals, without validation and checkpoints; NaN if no interval was logged."""
    lines = (trainer.logger.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    speeds = [r["audio_seconds_per_second"] for r in records if r.get("audio_seconds_per_second")]
    return float(np.median(trainer.data.seconds_per_step / np.array(speeds))) if speeds else math.nan


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _nan_to_none(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _PeakMemory:
    """Peak memory since construction: what torch allocated on a GPU, the growth of the process on a CPU."""

    def __init__(self) -> None:
        self._before_mib: float | None = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            ctypes.CDLL(None).malloc_trim(0)  # memory that an earlier run freed must not count as used
            Path("/proc/self/clear_refs").write_text("5")  # resets the kernel's high-water mark
            self._before_mib = _high_water_mib()
        except (OSError, AttributeError):  # not Linux, not glibc, or not permitted
            pass

    def read_mib(self, device: torch.device) -> float | None:
        """None where the system does not report it."""
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device) / 2**20
        return None if self._before_mib is None else round(_high_water_mib() - self._before_mib, 1)


def _high_water_mib() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError("/proc/self/status has no VmHWM")
    return int(found[1]) / 1024
