"""What each balancing strategy costs: its training step beside that of `weighted_sum`, and its own arithmetic.

python -m scripts.bench.balancers [--precision auto|float32] [--rounds N] [--json FILE]
    [--strategies NAME ...] [-- overrides]

All strategies train one model in turn, a step each, in an order that is drawn anew every round. A step is compared with
the mean of the `weighted_sum` steps of its own round; the ratio in the table is the median over the rounds. A strategy
that looks at gradients in every k-th step only takes two steps a round, one of each kind, and counts with the mean of k
steps, past the first ones in which it always looks.

What lies outside the balancer is the same work in every step, but not the same time on a machine that others use. So
the first column of the table takes the balancer's part alone, from the losses to one gradient at the decoder's output:
what it takes beyond that of `weighted_sum`, over the reference step. Whole steps stand beside it.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from numpy import average
from torch import Tensor

from balancer import Balancer, Statistics
from codec.training import Trainer
from codec.training.startup.malloc import keep_freed_memory
from scripts.bench.machine import describe_machine
from scripts.bench.step import own_trainer
from scripts.composition import CONFIGS

_REFERENCE = "weighted_sum"
_PER_ROUND = 3  # steps of the reference in a round
# Also timed: what it costs to look in every step.
_VARIANTS = {"encodec, refresh_every=1": ("encodec", "balancer.refresh_every=1")}


def make_balancer(weights: Mapping[str, float], name: str, *overrides: str) -> Balancer:
    """The strategy `configs/balancer/NAME.yaml`, which never monitors."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(
            None,
            [
                f"+losses.weights={{{','.join(f'{k}: {v}' for k, v in weights.items())}}}",
                f"+balancer={name}",
                *overrides,
            ],
        )
    balancer: Balancer = instantiate(cfg.balancer, _convert_="all", monitor_every=0)
    return balancer


class Ratios(NamedTuple):
    """To a step of the reference; one of each for a round."""

    part: list[float]  # 1 and what the balancer takes longer
    step: list[float]


class _Seconds(NamedTuple):
    part: float
    step: float


def _mean(taken: Sequence[_Seconds], shares: Sequence[float]) -> _Seconds:
    parts, steps = zip(*taken, strict=True)
    return _Seconds(average(parts, weights=shares), average(steps, weights=shares))


def time_steps(trainer: Trainer, balancers: Mapping[str, Balancer], rounds: int) -> dict[str, Ratios]:
    """Each strategy's step and its part in it, compared with the mean reference step of the same round."""
    audio = trainer.data.batch(0)
    order = [(name, 0) for name in [*balancers, *[_REFERENCE] * (_PER_ROUND - 1)]]
    order += [(name, 1) for name, balancer in balancers.items() if balancer.refresh_every > 1]
    drawn = random.Random(0)
    ratios = {name: Ratios([], []) for name in balancers}
    for number in range(rounds + 1):
        drawn.shuffle(order)
        seconds: dict[tuple[str, int], list[_Seconds]] = {entry: [] for entry in order}
        for name, after in order:
            balancer = balancers[name]
            balancer.step = (balancer.refresh_from + number) * balancer.refresh_every + after  # it looks if after is 0
            seconds[name, after].append(_time_step(trainer, balancer, audio))
        reference = _mean(seconds[_REFERENCE, 0], [1] * _PER_ROUND)
        for name, balancer in balancers.items() if number else ():  # the first round warms up
            kinds = [seconds[name, 0][0], *seconds.get((name, 1), [])]
            taken = _mean(kinds, [1, balancer.refresh_every - 1][: len(kinds)])
            ratios[name].part.append(1 + (taken.part - reference.part) / reference.step)
            ratios[name].step.append(taken.step / reference.step)
    return ratios


def _time_step(trainer: Trainer, balancer: Balancer, audio: Tensor) -> _Seconds:
    times: list[float] = []

    def mark(*_: object) -> None:
        times.append(time.perf_counter())

    with ExitStack() as marks:
        marks.callback(balancer.register_forward_pre_hook(mark).remove)
        marks.callback(balancer.register_forward_hook(mark).remove)
        trainer.balancer = balancer
        mark()
        trainer.train_step(audio)
        mark()
    trainer.step += 1
    begun, entered, left, ended = times
    return _Seconds(left - entered, ended - begun)


def time_arithmetic(balancer: Balancer, values: int = 192_000, repeats: int = 20) -> float:
    """Milliseconds from the losses' gradients at 8 s of audio to one, without the backward passes."""
    losses = len(balancer.weights)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(losses, 1, 1, values, generator=generator)
    ones = torch.ones(losses, dtype=torch.float64)
    found = []
    for _ in range(repeats + 1):
        statistics = Statistics(
            torch.arange(losses), ones, ones, rows, lambda gradient, _: gradient[..., :224].flatten()
        )
        begun = time.perf_counter()
        balancer.strategy(statistics)
        found.append(time.perf_counter() - begun)
    return 1000 * median(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.bench.balancers", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="also write the figures here")
    parser.add_argument("--strategies", nargs="+", help="names of configs/balancer; all of them if left out")
    parser.add_argument("overrides", nargs="*", help="of the configuration, after --")
    arguments = parser.parse_args()
    print(describe_machine(), flush=True)
    names = arguments.strategies or sorted(path.stem for path in (CONFIGS / "balancer").glob("*.yaml"))
    chosen = {name: (name,) for name in dict.fromkeys([_REFERENCE, *names])} | _VARIANTS
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer = own_trainer(arguments.precision, arguments.overrides, folder)
        weights = trainer.balancer.weights
        balancers = {label: make_balancer(weights, *parts) for label, parts in chosen.items()}
        ratios = time_steps(trainer, balancers, arguments.rounds)
    # Six losses, whatever the run has; some strategies name theirs.
    six = dict.fromkeys([*weights, "e", "f", "g", "h", "i", "j"][:6], 1.0)
    rows: dict[str, dict[str, Any]] = {
        label: {
            "ratio": median(ratios[label].part),
            "step_ratio": median(ratios[label].step),
            "rounds": ratios[label]._asdict(),
            "ms": time_arithmetic(make_balancer(six, *parts)),
        }
        for label, parts in chosen.items()
    }
    print(
        f"a training step over that of {_REFERENCE}, {trainer.precision.description}, {torch.get_num_threads()} threads"
    )
    print(f"  {'strategy':<28} {'by its part':<22} {'by whole steps':<22} own arithmetic, 6 losses x 8 s")
    for label, row in sorted(rows.items(), key=lambda item: item[1]["ratio"]):
        spans = [f"({min(found):.2f} to {max(found):.2f})" for found in ratios[label]]
        columns = f"{row['ratio']:.3f} {spans[0]:<16} {row['step_ratio']:.3f} {spans[1]:<16} {row['ms']:.2f} ms"
        print(f"  {label:<28} {columns}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"machine": describe_machine(), "balancers": rows}, indent=1))


if __name__ == "__main__":
    main()
