"""Trains one cell of an ablation, scores it on all held-out clips, and writes result.json."""

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
from codec.evaluation import Metric, count_codes, score_codes, select_metrics
from codec.training import Trainer, TrainingError
from codec.training.startup.malloc import keep_freed_memory
from data import HeldOutClip
from scripts.ablation.grid import BASE, Cell, ablation_folder, base_config, grid_runs, run_config
from scripts.command_line import describe_error
from scripts.composition import open_run
from scripts.train import run

__all__ = ["error_path", "run_job", "score"]


def run_job(cfg: DictConfig) -> None:
    """The job that `cfg.job` names, wherever Hydra's launcher runs it.

    If it cannot be done, a line that says why is in `error_path`: an error that is raised goes through Hydra, which has
    lines of its own to say. A cell that diverges is done.
    """
    keep_freed_memory()
    multiprocessing.set_start_method(None, force=True)  # joblib's own cannot start the readers of training data
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
    """Where a job of the ablation in `folder` says why it failed."""
    return folder / f"{job}.error.txt"


def _train_and_score(cfg: DictConfig, cell: Cell) -> None:
    train = run_config(cfg, cell)
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
            metrics = select_metrics(cfg.metrics)
            bandwidth = train.validation.bandwidth_kbps
            scores, clips = score(
                trainer.averaged_codec, trainer.validation.clips, bandwidth, metrics, cfg.speech_groups
            )
        folder = trainer.logger.folder
        entry = {
            "cell": cell.name,
            "strategy": cell.strategy,
            "weights": cell.weights,
            "weight_factors": dict(cell.factors),
            "loss_ablation": cell.loss_ablation,
            "seed": cell.seed,
            "steps": trainer.step,
            "seconds": round(trainer.seconds, 3),
            "seconds_per_step": round(_seconds_per_step(trainer), 6),
            "peak_memory_mib": peak_mib,
            "skipped_steps": trainer.skipped,
            "failure": failure,
            "scores": scores,
            "clips": clips,
        }
        with atomic_write(folder / "result.json") as temporary:
            temporary.write_text(json.dumps(_without_nan(entry), indent=1, allow_nan=False), encoding="utf-8")


@torch.no_grad()
def score(
    codec: Codec,
    clips: Iterable[HeldOutClip],
    bandwidth_kbps: float,
    metrics: Mapping[str, Metric],
    speech: Sequence[str],
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Codes clips at one bandwidth, and compares them with what they were.

    Args:
        speech: Groups of clips; all others get no metrics of speech.

    Returns:
        Means over the clips for which a metric is defined, with codes_used (share of each book's codes that occur, mean
        over books) and bitrate_efficiency; and of each clip its group and its scores, NaN where one is not defined.
    """
    config = codec.config
    device = next(codec.parameters()).device
    sizes = [config.codebook_size] * config.codebooks_for(bandwidth_kbps)
    counts = torch.zeros(len(sizes), max(sizes), dtype=torch.int64, device=device)
    of_clips: dict[str, dict[str, Any]] = {}
    for clip in clips:
        reference = clip.audio[None].to(device)
        segments = codec.encode(reference, bandwidth_kbps)
        for segment in segments:
            counts += count_codes(segment.codes, sizes)
        estimate = codec.decode(segments, reference.shape[-1])
        of_clips[clip.name] = {"group": clip.group}
        for name, metric in metrics.items():
            applies = metric.domain != "speech" or clip.group in speech
            of_clips[clip.name][name] = (
                float(metric.function(estimate, reference, config.sample_rate)) if applies else math.nan
            )
    values = {name: np.array([of_clip[name] for of_clip in of_clips.values()]) for name in metrics}
    defined = {name: of_metric[np.isfinite(of_metric)] for name, of_metric in values.items()}
    return {
        **{name: float(of_metric.mean()) if len(of_metric) else math.nan for name, of_metric in defined.items()},
        **score_codes(counts, sizes),
    }, of_clips


def _seconds_per_step(trainer: Trainer) -> float:
    """Median over the log intervals, validation and saving left out; NaN without one."""
    lines = (trainer.logger.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    speeds = [r["audio_seconds_per_second"] for r in records if r.get("audio_seconds_per_second")]
    return float(np.median(trainer.data.seconds_per_step / np.array(speeds))) if speeds else math.nan


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _PeakMemory:
    """Most memory held at a time from now on: what torch allocated on a GPU, by how much the process grew on a CPU."""

    def __init__(self) -> None:
        self._before_mib: float | None = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            # What an earlier cell left free counts as held until it is given back.
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is held now
            self._before_mib = _high_water_mib()
        except (OSError, AttributeError):  # not Linux, not glibc, or not permitted
            pass

    def read_mib(self, device: torch.device) -> float | None:
        """None where it cannot be told."""
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device) / 2**20
        return None if self._before_mib is None else round(_high_water_mib() - self._before_mib, 1)


def _high_water_mib() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError("/proc/self/status names no VmHWM")
    return int(found[1]) / 1024
