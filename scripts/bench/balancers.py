"""Times the training step under each balancing strategy, relative to `weighted_sum`, and the balancing alone.

python -m scripts.bench.balancers [--precision auto|float32] [--rounds N] [--json FILE]
    [--strategies NAME ...] [-- overrides]

In each round every strategy takes one step with the same model, in random order. The step is divided by the mean of the
`weighted_sum` steps of the same round, and the table shows the median over the rounds. A strategy that computes
per-loss gradients only in every k-th step takes two steps per round, one of each kind; they are weighted 1 : k - 1.

Work outside the balancer is the same in every step, but its time varies on a shared machine. So the first column counts
only the balancer's part, from the losses to one gradient at the decoder's output: 1 plus the difference to the part of
`weighted_sum`, divided by the whole `weighted_sum` step. The second column compares whole steps.
"""

import argparse
import json
import random
import tempfile
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
from scripts.bench.machine import clock, describe_machine
from scripts.bench.step import own_trainer
from scripts.composition import CONFIGS

_BASELINE = "weighted_sum"
_BASELINE_STEPS = 3  # per round
# Additional rows: name -> the strategy and its overrides.
_VARIANTS = {"encodec, refresh_every=1": ("encodec", "balancer.refresh_every=1")}


def make_balancer(weights: Mapping[str, float], name: str, *overrides: str) -> Balancer:
    """The strategy of configs/balancer/NAME.yaml, without monitoring."""
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
    """Relative to a step of the baseline, one value per round."""

    part: list[float]  # 1 + extra time of the balancer
    step: list[float]


class _Seconds(NamedTuple):
    part: float  # in the balancer
    step: float


def _mean(taken: Sequence[_Seconds], shares: Sequence[float]) -> _Seconds:
    parts, steps = zip(*taken, strict=True)
    return _Seconds(average(parts, weights=shares), average(steps, weights=shares))


def time_steps(trainer: Trainer, balancers: Mapping[str, Balancer], rounds: int) -> dict[str, Ratios]:
    """Times of each strategy relative to the mean baseline step of the same round."""
    audio = trainer.data.batch(0).to(trainer.device)
    order = [(name, 0) for name in [*balancers, *[_BASELINE] * (_BASELINE_STEPS - 1)]]
    order += [(name, 1) for name, balancer in balancers.items() if balancer.refresh_every > 1]
    generator = random.Random(0)
    ratios = {name: Ratios([], []) for name in balancers}
    for number in range(rounds + 1):
        generator.shuffle(order)
        seconds: dict[tuple[str, int], list[_Seconds]] = {entry: [] for entry in order}
        for name, offset in order:
            balancer = balancers[name]
            # With offset 0 the step computes per-loss gradients.
            balancer.step = (balancer.refresh_from + number) * balancer.refresh_every + offset
            seconds[name, offset].append(_time_step(trainer, balancer, audio))
        baseline = _mean(seconds[_BASELINE, 0], [1] * _BASELINE_STEPS)
        for name, balancer in balancers.items() if number else ():  # the first round is a warm-up
            kinds = [seconds[name, 0][0], *seconds.get((name, 1), [])]
            taken = _mean(kinds, [1, balancer.refresh_every - 1][: len(kinds)])
            ratios[name].part.append(1 + (taken.part - baseline.part) / baseline.step)
            ratios[name].step.append(taken.step / baseline.step)
    return ratios


def _time_step(trainer: Trainer, balancer: Balancer, audio: Tensor) -> _Seconds:
    times: list[float] = []

    def mark(*_: object) -> None:
        times.append(clock())

    with ExitStack() as marks:
        marks.callback(balancer.register_forward_pre_hook(mark).remove)
        marks.callback(balancer.register_forward_hook(mark).remove)
        trainer.balancer = balancer
        mark()
        trainer.train_step(audio)
        mark()
    trainer.step += 1
    started, entered, left, ended = times
    return _Seconds(left - entered, ended - started)


def time_arithmetic(
    balancer: Balancer, values: int = 192_000, repeats: int = 20, device: torch.device | str = "cpu"
) -> float:
    """Milliseconds to combine the gradients of all losses at 8 s of audio, without the backward passes."""
    losses = len(balancer.weights)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(losses, 1, 1, values, generator=generator).to(device)
    ones = torch.ones(losses, dtype=torch.float64)
    found = []
    for _ in range(repeats + 1):
        statistics = Statistics(
            torch.arange(losses), ones, ones, rows, lambda gradient, _: gradient[..., :224].flatten()
        )
        begun = clock()
        balancer.strategy(statistics)
        found.append(clock() - begun)
    return 1000 * median(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.bench.balancers", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="also write the results as JSON here")
    parser.add_argument("--strategies", nargs="+", help="names of configs/balancer (default: all)")
    parser.add_argument("overrides", nargs="*", help="overrides of the training configuration, after --")
    arguments = parser.parse_args()
    print(describe_machine(), flush=True)
    names = arguments.strategies or sorted(path.stem for path in (CONFIGS / "balancer").glob("*.yaml"))
    chosen = {name: (name,) for name in dict.fromkeys([_BASELINE, *names])} | _VARIANTS
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer = own_trainer(arguments.precision, arguments.overrides, folder)
        weights = trainer.balancer.weights
        balancers = {label: make_balancer(weights, *parts) for label, parts in chosen.items()}
        ratios = time_steps(trainer, balancers, arguments.rounds)
    # Six losses; the run's own come first, because some strategies refer to them by name.
    six = dict.fromkeys([*weights, "e", "f", "g", "h", "i", "j"][:6], 1.0)
    rows: dict[str, dict[str, Any]] = {
        label: {
            "ratio": median(ratios[label].part),
            "step_ratio": median(ratios[label].step),
            "rounds": ratios[label]._asdict(),
            "ms": time_arithmetic(make_balancer(six, *parts), device=trainer.device),
        }
        for label, parts in chosen.items()
    }
    print(f"training step relative to {_BASELINE}, {trainer.precision.description}, {torch.get_num_threads()} threads")
    print(f"  {'strategy':<28} {'balancer part':<22} {'whole step':<22} balancing alone, 6 losses x 8 s")
    for label, row in sorted(rows.items(), key=lambda item: item[1]["ratio"]):
        spans = [f"({min(found):.2f} to {max(found):.2f})" for found in ratios[label]]
        columns = f"{row['ratio']:.3f} {spans[0]:<16} {row['step_ratio']:.3f} {spans[1]:<16} {row['ms']:.2f} ms"
        print(f"  {label:<28} {columns}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"machine": describe_machine(), "balancers": rows}, indent=1))


if __name__ == "__main__":
    main()
