"""A synthetic finished ablation: tones, three strategies, two seeds, two weight settings."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 16000
STRATEGIES = ("encodec", "pcgrad", "weighted_sum")
SETTINGS: Mapping[str, Mapping[str, float]] = {"default": {}, "adversarial-x10": {"adversarial": 10.0}}
CLIPS = {"music-a": "music", "music-b": "music", "speech-a": "speech", "speech-b": "speech"}


def tone(clip: str, seconds: float) -> np.ndarray:
    hertz = 300 * (1 + sorted(CLIPS).index(clip) if clip in CLIPS else 1)
    return 0.4 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


def make_ablation(
    folder: Path,
    strategies: Iterable[str] = STRATEGIES,
    seeds: Iterable[int] = (0, 1),
    settings: Mapping[str, Mapping[str, float]] = SETTINGS,
    loss_ablations: Mapping[str, str] | None = None,
    seconds: float = 0.5,
) -> Path:
    """Writes the folder. Scores are those of `score`.

    Args:
        loss_ablations: Strategy -> "single_loss" or "leave_one_out": more runs for every seed and setting.
        seconds: Duration of the samples.
    """
    kinds: dict[str, str | None] = dict.fromkeys(strategies)
    kinds |= loss_ablations or {}
    for weights, factors in settings.items():
        for strategy, loss_ablation in kinds.items():
            for seed in seeds:
                result = run_result(strategy, weights, seed, list(kinds).index(strategy), factors, loss_ablation)
                write_run(folder, result, seconds)
    text = f"name: {folder.name}\nstart: from_base\nsteps: 40\nstrategies:\n- encodec\n"
    (folder / "ablation.yaml").write_text(text, encoding="utf-8")
    return folder


def score(place: int, seed: int, clip: int) -> float:
    """Increases with the place of the strategy; seeds and clips shift all strategies almost equally."""
    return 10.0 + place + 3.0 * clip + 0.5 * seed + 0.1 * np.sin(7 * place + 3 * seed + clip)


def run_result(
    strategy: str,
    weights: str,
    seed: int,
    place: int,
    factors: Mapping[str, float] | None = None,
    loss_ablation: str | None = None,
    clips: Mapping[str, str] = CLIPS,
) -> dict[str, Any]:
    per_clip = {
        name: {
            "group": group,
            "mel_distance": 1 / score(place, seed, index),
            "si_sdr_db": score(place, seed, index),
            "pesq": 1 + 0.1 * place if group == "speech" else None,
        }
        for index, (name, group) in enumerate(clips.items())
    }
    return {
        "run": f"{strategy}.{weights}.seed{seed}",
        "strategy": strategy,
        "weights": weights,
        "weight_factors": dict(factors or {}),
        "loss_ablation": loss_ablation,
        "override": None,
        "seed": seed,
        "steps": 40,
        "seconds": 4.0,
        "seconds_per_step": 0.1 * (1 + 0.05 * place),
        "peak_memory_mib": None if place else 512.0,
        "skipped_steps": 0,
        "failure": None,
        "scores": {"codes_used": 0.5 + 0.1 * place, "bitrate_efficiency": None},
        "clips": per_clip,
    }


def write_run(folder: Path, result: Mapping[str, Any], seconds: float = 0.5) -> Path:
    run = folder / "runs" / result["run"]
    (run / "samples").mkdir(parents=True)
    generator = np.random.default_rng([result["seed"], len(result["strategy"])])
    for clip in result["clips"]:
        audio = tone(clip, seconds)
        soundfile.write(run / "samples" / f"{clip}.reference.wav", audio, RATE)
        for step, level in ((20, 0.2), (40, 0.05)):
            noisy = audio + level * generator.normal(size=len(audio))
            soundfile.write(run / "samples" / f"{clip}.step{step:07d}.wav", noisy, RATE)
    lines = [*_train(result["seed"], 0.1 * len(result["strategy"])), *_validation(result["seed"])]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return run


def rewrite(run: Path, **changes: Any) -> None:
    """Changes entries of result.json."""
    path = run / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def fail(run: Path, reason: str) -> None:
    """Turns a run into one that diverged."""
    rewrite(run, failure=reason, scores={}, clips={})


def _train(seed: int, level: float) -> list[dict[str, Any]]:
    return [
        {
            "split": "train",
            "step": step,
            "loss/l1": level / step + 0.001 * seed,
            "loss/adversarial": None if step == 20 else -level,
            "share/l1": 0.25 + 0.1 * seed,
            "share/adversarial": 0.75 - 0.1 * seed,
            "cosine/l1/adversarial": 0.2 * level - 0.1,
            "norm/l1": level / step,
            "weight/l1": 1.0,
        }
        for step in range(10, 50, 10)
    ]


def _validation(seed: int) -> list[dict[str, Any]]:
    return [
        {
            "split": "validation",
            "step": step,
            "speech/mel_distance": 1 / (1 + step) + 0.01 * seed,
            "speech/si_sdr_db": step / 9,
        }
        for step in (0, 20, 40)
    ]
