"""What can be said about strategies from a few seeds and clips."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

__all__ = [
    "LEVEL",
    "Difference",
    "Interval",
    "detectable_ratio",
    "holm",
    "mean_interval",
    "paired_difference",
    "smallest_wilcoxon_p",
]

LEVEL = 0.05


class Interval(NamedTuple):
    """A mean and how well it is known."""

    mean: float  # NaN when there is no value
    half_width: float  # of the 95 % interval; NaN below two values
    n: int


class Difference(NamedTuple):
    """A strategy minus the reference, on the same seeds and clips."""

    interval: Interval  # over seeds
    test: str  # "t" over seeds, "Wilcoxon" over the clips of a single seed
    n: int  # what the test counts: seeds or clips
    p: float  # two-sided, not corrected


def mean_interval(values: np.ndarray) -> Interval:
    """Mean of the finite values with the 95 % interval of Student's t on their number.

    Shape: values [N].
    """
    known = values[np.isfinite(values)]
    n = len(known)
    if n < 2:
        return Interval(float(known[0]) if n else np.nan, np.nan, n)
    half_width = stats.t.isf(LEVEL / 2, n - 1) * known.std(ddof=1) / np.sqrt(n)
    return Interval(float(known.mean()), float(half_width), n)


def paired_difference(
    strategy: Mapping[int, Mapping[str, float]], reference: Mapping[int, Mapping[str, float]]
) -> Difference | None:
    """Mean of score differences, paired by seed and by clip.

    Each seed gives one number, the mean over the clips that both have a finite score of. Two seeds or more are tested
    by the paired t-test, which speaks of training runs. A single seed leaves only its clips to test, by Wilcoxon's
    signed ranks: that speaks of clips under one training run.

    Args:
        strategy: seed to clip to score.
        reference: likewise.

    Returns:
        None when no seed and clip are shared.
    """
    per_seed = []
    for seed in sorted(strategy.keys() & reference.keys()):
        shared = sorted(strategy[seed].keys() & reference[seed].keys())
        differences = np.array([strategy[seed][clip] - reference[seed][clip] for clip in shared])
        if np.isfinite(differences).any():
            per_seed.append(differences[np.isfinite(differences)])
    if not per_seed:
        return None
    means = np.array([differences.mean() for differences in per_seed])
    if len(means) > 1:
        return Difference(mean_interval(means), "t", len(means), _t_test(means))
    return Difference(mean_interval(means), "Wilcoxon", len(per_seed[0]), _wilcoxon(per_seed[0]))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction (1979): the smallest p times m, the next times m - 1, never falling, at most 1.

    NaN stays NaN and does not count.

    Shape: p [m] -> [m].
    """
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN sorts last
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return adjusted


def detectable_ratio(seeds: int, comparisons: int) -> float:
    """How many standard deviations over seeds a mean difference must reach to pass Holm's first step at 5 %."""
    return float(stats.t.isf(LEVEL / 2 / comparisons, seeds - 1) / np.sqrt(seeds))


def smallest_wilcoxon_p(clips: int) -> float:
    """The two-sided p when all differences have one sign: there are 2^clips equally likely patterns of signs."""
    return 2.0 ** (1 - clips)


def _t_test(differences: np.ndarray) -> float:
    """Differences that do not vary leave nothing to test by: 1 if they are zero, else NaN."""
    deviation = differences.std(ddof=1)
    if deviation == 0:
        return 1.0 if differences[0] == 0 else np.nan
    t = differences.mean() / deviation * np.sqrt(len(differences))
    return float(2 * stats.t.sf(abs(t), len(differences) - 1))


def _wilcoxon(differences: np.ndarray) -> float:
    known = differences[differences != 0]  # Wilcoxon's own treatment of ties with the reference
    return float(stats.wilcoxon(known).pvalue) if len(known) else 1.0
