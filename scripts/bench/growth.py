"""Measures how time and memory of a training step grow with batch, segment, codebooks, losses and discriminators.

python -m scripts.bench.growth [--precision auto|float32] [--rounds N] [--series NAME ...] [--plot FILE] [--json FILE]

One quantity varies at a time; the others are those of audiocraft's 24 kHz model on 4 x 1 s. The sizes of a series
alternate, each in its own process. A straight line, cost = fixed + rate x size, is fitted to every series. The exponent
of the last doubling is 1 for linear growth and below 1 if the fixed part is still relevant.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from scripts.bench.machine import describe_machine
from scripts.bench.step import Worker

__all__ = ["SERIES", "Growth", "growth", "main"]

_WINDOWS = (1024, 2048, 512, 256, 128)


def _codebooks(count: int) -> list[str]:
    kbps = 0.75 * count
    return [
        f"codec.quantizer.num_codebooks={count}",
        f"codec.bandwidths_kbps=[{kbps}]",
        f"validation.bandwidth_kbps={kbps}",
    ]


def _losses(count: int) -> list[str]:
    """`count` waveform losses in addition to mel, adversarial and feature matching."""
    extra = range(1, count)
    return [f"+losses.terms.l1_{i}={{_target_:losses.L1}}" for i in extra] + [
        f"+losses.weights.l1_{i}=0.1" for i in extra
    ]


# Name -> unit of the sizes, and the overrides for each size.
SERIES: Mapping[str, tuple[str, Mapping[float, Sequence[str]]]] = {
    "batch": ("signals of 1 s", {size: [f"data.batch_size={size}"] for size in (1, 2, 4, 8)}),
    "segment": ("seconds, batch of 4", {s: [f"data.segment_seconds={s}"] for s in (0.25, 0.5, 1.0, 2.0)}),
    "codebooks": ("codebooks of 1024 codes", {count: _codebooks(count) for count in (4, 8, 16, 32)}),
    "losses": ("waveform losses", {count: _losses(count) for count in (1, 2, 4, 8)}),
    "discriminators": (
        "STFT windows",
        {n: [f"discriminator.windows=[{','.join(map(str, _WINDOWS[:n]))}]"] for n in (1, 2, 4, 5)},
    ),
}


class Growth(NamedTuple):
    """A straight line through the costs, and the exponent between the two largest sizes."""

    fixed: float
    rate: float
    exponent: float


def growth(sizes: Sequence[float], costs: Sequence[float]) -> Growth:
    """Least squares for cost = fixed + rate x size; and d log(cost) / d log(size) between the two largest sizes.

    Raises:
        ValueError: There are fewer than two sizes.
    """
    if len(sizes) < 2 or len(sizes) != len(costs):
        raise ValueError(f"expected two sizes or more and a cost for each, got {len(sizes)} and {len(costs)}")
    rate, fixed = np.polyfit(sizes, costs, 1)
    exponent = math.log(costs[-1] / costs[-2]) / math.log(sizes[-1] / sizes[-2])
    return Growth(float(fixed), float(rate), exponent)


def _measure(overrides: Mapping[float, Sequence[str]], precision: str, rounds: int) -> dict[float, dict[str, Any]]:
    command = [sys.executable, "-m", "scripts.bench.step", "work"]
    workers = {size: Worker([*command, *extra, f"--precision={precision}"]) for size, extra in overrides.items()}
    for _ in range(rounds):
        for worker in workers.values():
            worker.step()
    return {size: {"seconds": worker.seconds, "peak_bytes": worker.close()} for size, worker in workers.items()}


def _plot(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(found), 4.6), layout="constrained")
    axes = figure.subplots(2, len(found), squeeze=False)
    for column, (name, series) in enumerate(found.items()):
        sizes = series["sizes"]
        for row, (kind, unit) in enumerate((("seconds", "s per step"), ("gib", "peak GiB"))):
            plot, line = axes[row][column], Growth(*series[f"{kind}_growth"])
            plot.plot(sizes, series[kind], "o", color="tab:blue")
            plot.plot([0, sizes[-1]], [line.fixed, line.fixed + line.rate * sizes[-1]], color="tab:gray", lw=1)
            plot.set(xlim=(0, 1.05 * sizes[-1]), ylim=(0, 1.15 * max(series[kind])))
            plot.text(0.05, 0.92, f"last exponent {line.exponent:.2f}", transform=plot.transAxes, fontsize=8)
            plot.set_ylabel(unit if column == 0 else "")
        axes[1][column].set_xlabel(f"{name}: {series['unit']}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="scripts.bench.growth", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3, help="steps per size (%(default)s)")
    parser.add_argument("--series", nargs="+", default=list(SERIES), choices=list(SERIES), help="default: all")
    parser.add_argument("--plot", type=Path, help="also save a plot here (.svg, .png)")
    parser.add_argument("--json", type=Path, help="also write the results as JSON here")
    parser.add_argument("overrides", nargs="*", help="overrides of the training configuration, after --")
    options = parser.parse_args(arguments)
    print(describe_machine(), flush=True)
    found: dict[str, dict[str, Any]] = {}
    for name in options.series:
        unit, overrides = SERIES[name]
        extended = {size: [*options.overrides, *extra] for size, extra in overrides.items()}
        rows = _measure(extended, options.precision, options.rounds)
        seconds = [median(row["seconds"]) for row in rows.values()]
        gib = [row["peak_bytes"] / 2**30 for row in rows.values()]
        sizes = list(rows)
        found[name] = {"unit": unit, "sizes": sizes, "seconds": seconds, "gib": gib} | {
            f"{kind}_growth": growth(sizes, costs) for kind, costs in (("seconds", seconds), ("gib", gib))
        }
        print(f"{name} ({unit})")
        for size, s, g in zip(sizes, seconds, gib, strict=True):
            print(f"  {size:>6g}  {s:7.3f} s  {g:6.2f} GiB")
        for kind, what in (("seconds", "time"), ("gib", "memory")):
            line = found[name][f"{kind}_growth"]
            print(f"  {what}: {line.fixed:.3f} + {line.rate:.3f} x size, last exponent {line.exponent:.2f}")
    if options.plot:
        _plot(found, options.plot)
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "growth": found}, indent=1))


if __name__ == "__main__":
    main()
