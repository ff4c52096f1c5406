"""Intervals, paired tests and Holm's correction, against scipy and hand calculations."""

import math

import numpy as np
import pytest
from scipy import stats

from scripts.ablation.report.statistics import (
    clearly_best,
    detectable_ratio,
    holm,
    mean_interval,
    paired_difference,
    smallest_wilcoxon_p,
)

NAN = math.nan


def test_the_interval_of_three_values_calculated_by_hand() -> None:
    mean, half_width, count = mean_interval(np.array([1.0, 2.0, NAN, 6.0]))
    # Deviations -2, -1, 3: variance 14 / 2, standard error sqrt(7 / 3); t(0.975, 2) = 4.302653.
    assert (mean, count) == (3.0, 3)
    assert half_width == pytest.approx(4.30265273 * math.sqrt(7 / 3), rel=1e-9)


def test_the_interval_equals_scipys() -> None:
    values = np.random.default_rng(0).normal(5, 2, size=7)
    low, high = stats.t.interval(0.95, 6, loc=values.mean(), scale=stats.sem(values))
    mean, half_width, _ = mean_interval(values)
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high), rel=1e-12)


@pytest.mark.parametrize("values", [[], [NAN], [math.inf]])
def test_without_a_finite_value_the_mean_is_nan(values: list[float]) -> None:
    mean, half_width, count = mean_interval(np.array(values))
    assert count == 0
    assert np.isnan([mean, half_width]).all()


def test_one_value_has_no_interval() -> None:
    mean, half_width, count = mean_interval(np.array([4.0, NAN]))
    assert (mean, count) == (4.0, 1)
    assert math.isnan(half_width)


def scores(rng: np.random.Generator, seeds: int, clips: int) -> dict[int, dict[str, float]]:
    return {seed: {f"clip{c}": float(rng.normal(c + seed)) for c in range(clips)} for seed in range(seeds)}


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_several_seeds_are_tested_by_the_paired_t_test(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    strategy, baseline = scores(rng, seeds, 5), scores(rng, seeds, 5)
    means = [[np.mean(list(scores[seed].values())) for seed in range(seeds)] for scores in (strategy, baseline)]
    expected = stats.ttest_rel(*means)
    difference = paired_difference(strategy, baseline)
    assert difference is not None
    assert (difference.test, difference.n, difference.interval.n) == ("t", seeds, seeds)
    assert difference.p == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = expected.confidence_interval(0.95)
    assert difference.interval.mean == pytest.approx((low + high) / 2, rel=1e-9)
    assert difference.interval.half_width == pytest.approx((high - low) / 2, rel=1e-9)


def test_one_seed_is_tested_over_its_clips_by_wilcoxon() -> None:
    rng = np.random.default_rng(1)
    strategy, baseline = scores(rng, 1, 9), scores(rng, 1, 9)
    baseline[5] = {"clip0": 100.0}  # the strategy has no run with this seed
    pairs = [[scores[0][f"clip{c}"] for c in range(9)] for scores in (strategy, baseline)]
    difference = paired_difference(strategy, baseline)
    assert difference is not None
    assert (difference.test, difference.n) == ("Wilcoxon", 9)
    assert difference.p == pytest.approx(stats.wilcoxon(*pairs).pvalue, rel=1e-12)
    assert difference.interval.mean == pytest.approx(np.subtract(*pairs).mean(), rel=1e-12)
    assert math.isnan(difference.interval.half_width)


def test_pairs_need_the_same_seed_and_clip_with_a_finite_score() -> None:
    strategy = {0: {"a": 1.0, "b": 9.0, "c": NAN}, 1: {"a": 2.0}, 2: {"a": NAN}}
    baseline = {0: {"a": 0.5, "c": 1.0, "d": 3.0}, 1: {"a": 1.0}, 2: {"a": 1.0}, 3: {"a": 0.0}}
    difference = paired_difference(strategy, baseline)
    assert difference is not None
    assert (difference.test, difference.n) == ("t", 2)
    assert difference.interval.mean == 0.75  # of 0.5 and 1
    assert paired_difference({0: {"a": 1.0}}, {1: {"a": 1.0}}) is None
    assert paired_difference({0: {"a": 1.0}}, {0: {"b": 1.0}}) is None
    assert paired_difference({0: {"a": NAN}}, {0: {"a": 1.0}}) is None


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_scores_have_no_difference(seeds: int) -> None:
    same = scores(np.random.default_rng(2), seeds, 4)
    difference = paired_difference(same, same)
    assert difference is not None
    assert (difference.interval.mean, difference.p) == (0.0, 1.0)


def test_differences_without_variance_are_not_tested() -> None:
    difference = paired_difference({0: {"a": 2.0}, 1: {"a": 3.0}}, {0: {"a": 1.0}, 1: {"a": 2.0}})
    assert difference is not None
    assert difference.interval == (1.0, 0.0, 2)
    assert math.isnan(difference.p)


def test_holm_against_a_hand_calculation() -> None:
    p = np.array([0.01, NAN, 0.04, 0.03, 0.005])
    # In order: 4 · 0.005, 3 · 0.01, 2 · 0.03, and 0.04, which is raised to the value before it.
    assert holm(p).tolist() == pytest.approx([0.03, NAN, 0.06, 0.06, 0.02], nan_ok=True)
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert holm(np.array([0.04])).tolist() == [0.04]
    assert holm(np.array([])).tolist() == []


@pytest.mark.parametrize(("seeds", "comparisons"), [(2, 1), (3, 12), (10, 5)])
def test_a_difference_of_the_detectable_size_just_passes(seeds: int, comparisons: int) -> None:
    pattern = np.linspace(-1, 1, seeds)
    differences = detectable_ratio(seeds, comparisons) + pattern / pattern.std(ddof=1)
    p = stats.ttest_1samp(differences, 0).pvalue
    assert p * comparisons == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize("clips", [1, 2, 5, 10])
def test_the_smallest_p_of_wilcoxon(clips: int) -> None:
    assert smallest_wilcoxon_p(clips) == pytest.approx(stats.wilcoxon(np.arange(1.0, clips + 1)).pvalue)


def test_the_best_is_clear_if_every_paired_difference_passes() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, size=(3, 4))
    seeds = np.array([0.0, 5.0, -3.0, 8.0])  # shared by all, so the pairing removes it

    def scores(*levels: float) -> list[dict[int, float]]:
        return [dict(enumerate(level + seeds + noise[row])) for row, level in enumerate(levels)]

    assert clearly_best(scores(1.0, 2.0, 3.0), 1) == 2
    assert clearly_best(scores(1.0, 2.0, 3.0), -1) == 0
    assert clearly_best(scores(1.0, 2.0, 3.0), 0) is None
    assert clearly_best(scores(1.0, 3.0, 3.0), 1) is None  # two are equal up to chance
    assert clearly_best([{0: 1.0}, {0: 2.0}], 1) is None  # one seed
    assert clearly_best([{0: 1.0, 1: 2.0}, {2: 5.0, 3: 6.0}], 1) is None  # no pair
    assert clearly_best([{0: 1.0, 1: NAN}, {0: NAN, 1: NAN}], 1) is None  # no rival
    assert clearly_best([{0: 1.0, 1: 2.0}, {0: 1.5, 1: 2.5}], 1) == 1  # the same difference for every seed
    assert clearly_best([{0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}], 1) is None
