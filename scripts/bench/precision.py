"""Compares training losses in bfloat16 and float32 on the same steps, over several seeds.

python -m scripts.bench.precision [--steps N] [--seeds N ...] [--plot FILE] [--json FILE] [overrides ...]

The model, losses and discriminator are those of the other benchmarks, with one segment of 1 s per batch. Both
precisions start from the same weights and use the same batches for each seed. So the difference at one seed is the
effect of the precision. It should be smaller than the difference between two seeds.
"""

import argparse
import itertools
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray

from codec.training.startup.malloc import keep_freed_memory
from scripts.bench.machine import describe_machine
from scripts.bench.step import AUDIOCRAFT
from scripts.composition import CONFIGS, open_run

__all__ = ["Difference", "differences", "main"]

_PRECISIONS = ("float32", "auto")
_LOG_EVERY = 10
Curves = Mapping[str, Mapping[int, NDArray[np.float64]]]  # precision -> seed -> means of `_LOG_EVERY` steps


class Difference(NamedTuple):
    """Differences of losses over the whole run, relative to their magnitude in float32."""

    precision: float  # mean absolute difference of the two precisions at one seed
    seeds: float  # mean absolute difference of two seeds in float32
    signed: float  # mean of auto - float32, over all seeds


def differences(curves: Curves) -> Difference:
    """Compares the curves of one loss.

    Raises:
        ValueError: There are fewer than two seeds.
    """
    exact, auto = (curves[precision] for precision in _PRECISIONS)
    if len(exact) < 2:
        raise ValueError(f"expected two seeds or more, got {len(exact)}")
    scale = np.mean(np.abs(list(exact.values())), 0)  # magnitudes, because the adversarial loss changes sign
    gaps = np.stack([(auto[seed] - exact[seed]) / scale for seed in exact])
    noise = [abs(a - b) / scale for a, b in itertools.combinations(exact.values(), 2)]
    return Difference(float(abs(gaps).mean()), float(np.mean(noise)), float(gaps.mean()))


def _train(precision: str, seed: int, steps: int, overrides: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Trains one run. Returns loss -> means of `_LOG_EVERY` steps."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as devnull:
        settings = [
            *AUDIOCRAFT,
            "data.batch_size=1",
            f"runs_folder={folder}",
            f"seed={seed}",
            f"trainer.precision={precision}",
            f"trainer.max_steps={steps}",
            f"trainer.log_every={_LOG_EVERY}",
            f"trainer.validate_every={steps}",
            f"trainer.checkpoint_every={steps}",
            *overrides,
        ]
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = compose("train", settings)
        with open_run(cfg, devnull) as trainer:
            trainer.run()
            lines = (trainer.logger.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["split"] == "train"]
    return {name: np.array([r[name] for r in records]) for name in records[-1] if name.startswith("loss/")}


def _plot(found: Mapping[str, Curves], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(found), 2.8), layout="constrained")
    for axes, (name, curves) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        for precision, colour, style in zip(_PRECISIONS, ("tab:gray", "tab:blue"), ("-", "--"), strict=True):
            for number, curve in enumerate(curves[precision].values()):
                steps = _LOG_EVERY * np.arange(1, len(curve) + 1)
                axes.plot(steps, curve, style, color=colour, lw=1, label=None if number else precision)
        positive = all((curve > 0).all() for of in curves.values() for curve in of.values())
        axes.set(title=name.removeprefix("loss/"), xlabel="step", yscale="log" if positive else "linear")
        axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="scripts.bench.precision", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--steps", type=int, default=200, help="steps of each run (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--plot", type=Path, help="also save a plot here (.svg, .png)")
    parser.add_argument("--json", type=Path, help="also write the results as JSON here")
    parser.add_argument("overrides", nargs="*", help="overrides of the training configuration, after --")
    options = parser.parse_args(arguments)
    print(describe_machine(), flush=True)
    keep_freed_memory()
    runs = {p: {s: _train(p, s, options.steps, options.overrides) for s in options.seeds} for p in _PRECISIONS}
    losses = list(runs["float32"][options.seeds[0]])
    found = {
        loss: {p: {s: run[loss] for s, run in of_seeds.items()} for p, of_seeds in runs.items()} for loss in losses
    }
    compared = {loss: differences(curves) for loss, curves in found.items()}
    print(f"losses over {options.steps} steps, precision=auto compared with float32, {len(options.seeds)} seeds")
    print(f"  {'':<24} {'precision':>10} {'two seeds':>14} {'signed':>9}")
    for loss, difference in compared.items():
        print(f"  {loss:<24} {difference.precision:>10.2%} {difference.seeds:>14.2%} {difference.signed:>+9.2%}")
    if options.plot:
        _plot(found, options.plot)
    if options.json:
        curves = {
            loss: {p: {s: c.tolist() for s, c in cs.items()} for p, cs in of.items()} for loss, of in found.items()
        }
        figures = {"machine": describe_machine(), "differences": compared, "curves": curves}
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
