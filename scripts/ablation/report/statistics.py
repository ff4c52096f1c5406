"""Confidence intervals and paired tests for a few seeds and clips."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

__all__ = [
    "LEVEL",
    "Difference",
    "Interval",
    "clearly_best",
    "detectable_ratio",
    "holm",
    "mean_interval",
    "paired_difference",
    "smallest_wilcoxon_p",
]

LEVEL = 0.05  # significance level


class Interval(NamedTuple):
    """A mean with its 95 % confidence interval."""

    mean: float  # NaN without a value
    half_width: float  # NaN with fewer than two values
    n: int


class Difference(NamedTuple):
    """Strategy minus baseline on the same seeds and clips."""

    interval: Interval  # over seeds
    test: str  # "t" over seeds, or "Wilcoxon" over the clips of a single seed
    n: int  # number of seeds or clips that the test uses
    p: float  # two-sided, uncorrected


def mean_interval(values: np.ndarray) -> Interval:
    """Mean of the finite values with its 95 % interval by Student's t.

    Shape: values [N].
    """
    finite = values[np.isfinite(values)]
    n = len(finite)
    if n < 2:
        return Interval(float(finite[0]) if n else np.nan, np.nan, n)
    half_width = -stdtrit(n - 1, LEVEL / 2) * finite.std(ddof=1) / np.sqrt(n)
    return Interval(float(finite.mean()), float(half_width), n)


def paired_difference(
    strategy: Mapping[int, Mapping[str, float]], baseline: Mapping[int, Mapping[str, float]]
) -> Difference | None:
    """Mean difference of scores, paired by seed and clip.

    Each seed contributes one number, the mean over the clips with a finite score in both. With two seeds or more, the
    paired t-test compares training runs. With one seed, Wilcoxon's signed-rank test compares the clips of one run.

    Args:
        strategy: Seed -> clip -> score.
        baseline: The same for the baseline.

    Returns:
        None if no seed and clip are shared.
    """
    per_seed = []
    for seed in sorted(strategy.keys() & baseline.keys()):
        shared = sorted(strategy[seed].keys() & baseline[seed].keys())
        differences = np.array([strategy[seed][clip] - baseline[seed][clip] for clip in shared])
        if np.isfinite(differences).any():
            per_seed.append(differences[np.isfinite(differences)])
    if not per_seed:
        return None
    means = np.array([differences.mean() for differences in per_seed])
    if len(means) > 1:
        return Difference(mean_interval(means), "t", len(means), _t_test(means))
    return Difference(mean_interval(means), "Wilcoxon", len(per_seed[0]), _wilcoxon(per_seed[0]))


def clearly_best(scores: Sequence[Mapping[int, float]], sign: int) -> int | None:
    """The position of the best mean, if it is better than each other one beyond chance.

    The differences are paired by seed; their t-tests must all pass at 5 % after Holm's correction. So one seed, whose
    scores have no interval, has no best.

    Args:
        scores: For each condition, seed -> score.
        sign: 1 if higher is better, -1 if lower is better, 0 if neither is.
    """
    finite = [{seed: {"": value} for seed, value in each.items() if np.isfinite(value)} for each in scores]
    means = [
        float(np.mean([value for clips in each.values() for value in clips.values()] or np.nan)) for each in finite
    ]
    rivals = [position for position, mean in enumerate(means) if np.isfinite(mean)]
    if not sign or len(rivals) < 2:
        return None
    best = max(rivals, key=lambda position: sign * means[position])
    by_seed = [{seed: {"": value} for seed, value in each.items()} for each in scores]
    differences = [paired_difference(by_seed[best], by_seed[rival]) for rival in rivals if rival != best]
    known = [difference for difference in differences if difference is not None and difference.test == "t"]
    if len(known) < len(differences):
        return None
    p = holm(np.array([difference.p for difference in known]))
    constant = np.array([np.isnan(d.p) for d in known])  # the same difference for every seed: no variance, no test
    return best if bool(((p < LEVEL) | constant).all()) else None


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction (1979) for multiple tests.

    The smallest p is multiplied by m, the next by m - 1 and so on; the result never decreases and is at most 1.
    NaN stays NaN and does not count towards m.

    Shape: p [m] -> [m].
    """
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN is sorted last
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return adjusted


def detectable_ratio(seeds: int, comparisons: int) -> float:
    """The mean difference, in standard deviations over seeds, that just passes Holm's first step at 5 %."""
    return float(-stdtrit(seeds - 1, LEVEL / 2 / comparisons) / np.sqrt(seeds))


def smallest_wilcoxon_p(clips: int) -> float:
    """The two-sided p if all differences have the same sign: 2^clips sign patterns are equally likely."""
    return 2.0 ** (1 - clips)


def _t_test(differences: np.ndarray) -> float:
    """The two-sided p. For differences without variance: 1 if they are zero, else NaN."""
    deviation = differences.std(ddof=1)
    if deviation == 0:
        return 1.0 if differences[0] == 0 else np.nan
    t = differences.mean() / deviation * np.sqrt(len(differences))
    return float(2 * stdtr(len(differences) - 1, -abs(t)))


def _wilcoxon(differences: np.ndarray) -> float:
    from scipy.stats import wilcoxon  # importing it takes a third as long as importing torch

    nonzero = differences[differences != 0]  # Wilcoxon's method drops ties
    return float(wilcoxon(nonzero).pvalue) if len(nonzero) else 1.0
