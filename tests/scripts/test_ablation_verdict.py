"""The sentences and the picture at the top of an ablation's page."""

import numpy as np

from codec.evaluation import describe
from scripts.ablation.report.runs import Condition, Run
from scripts.ablation.report.tables import Entry, Row, Table
from scripts.ablation.report.verdict import quality_scatter, verdict

METRICS = [describe(name) for name in ("si_sdr_db", "mel_distance")]


def table(**marks: str) -> Table:
    """Strategy -> the marks of both metrics: + better, - worse, 0 neither."""
    names = {"+": "better", "-": "worse", "0": ""}
    rows = [Row(name, "", [Entry("", mark=names[sign]) for sign in signs]) for name, signs in marks.items()]
    return Table("", [], [rows])


def condition(name: str, ablation: str | None = None, **scores: list[float]) -> Condition:
    seeds = range(len(next(iter(scores.values()), [])))
    runs = [
        Run(
            None,
            name,
            "default",
            {},
            ablation,
            None,
            seed,
            1,
            1.0,
            1.0,
            1.0,
            0,
            None,
            {k: v[seed] for k, v in scores.items()},
            {},
        )  # type: ignore[arg-type]
        for seed in seeds
    ]
    return Condition(name, "default", ablation, runs)


def told(seeds: int, *tables: Table) -> list[str]:
    """The verdict on differences in the groups speech, music and so on."""
    groups = ("speech", "music")
    return verdict({group: (METRICS, each) for group, each in zip(groups, tables, strict=False)}, "sum", seeds)


def test_scores_of_several_groups_are_told_apart() -> None:
    assert told(3, table(a="+0", b="00"), table(a="0-", b="00")) == [
        "No strategy is better than sum in any score without being worse in another.",
        "a is better in SI-SDR of speech, worse in mel distance of music.",
        "No difference was shown for b.",
    ]


def test_every_kind_of_result_is_told() -> None:
    sentences = told(3, table(a="++", b="+0", c="+-", d="-0", e="00", f="00"))
    assert sentences == [
        "Better than sum, and shown to be worse in no score: a (SI-SDR, mel distance) and b (SI-SDR).",
        "c is better in SI-SDR, worse in mel distance.",
        "Worse in at least one score, better in none: d.",
        "No difference was shown for e and f.",
    ]


def test_nothing_is_called_better_that_is_not() -> None:
    assert verdict({}, "sum", 3) == []
    assert told(3, table(a="00", b="-0")) == [
        "No strategy is better than sum in any score without being worse in another.",
        "Worse in at least one score, better in none: b.",
        "No difference was shown for a.",
    ]
    assert told(1, table(a="+0"))[-1].startswith("This is one seed: ")
    failed = Table("", [], [[Row("a", "", [Entry("failed", span=2)])]])
    assert told(3, failed) == []


def test_many_strategies_are_counted() -> None:
    first, second = told(3, table(**{f"s{i}": "++" for i in range(6)}, m0="+-"))
    assert first.endswith("s3 (SI-SDR, mel distance) and 2 more.")
    assert second.startswith("m0 ")


def test_the_scatter_has_means_and_intervals_of_the_strategies() -> None:
    conditions = [
        condition("sum", mel_distance=[0.1, 0.2], visqol=[3.0, 3.0], si_sdr_db=[1.0, 1.0]),
        condition("a", mel_distance=[0.1], visqol=[4.0], si_sdr_db=[1.0]),
        condition("b", mel_distance=[0.1], visqol=[np.nan], si_sdr_db=[1.0]),
        condition("only-mel", "single_loss", mel_distance=[0.1], visqol=[4.0], si_sdr_db=[1.0]),
    ]
    measured = [describe(name) for name in ("si_sdr_db", "visqol", "mel_distance", "unknown")]
    scatter = quality_scatter(conditions, "sum", measured)
    assert scatter is not None
    assert (scatter.x.name, scatter.y.name) == ("mel_distance", "visqol")
    assert scatter.data["xLabel"] == "mel distance (lower is better)"
    baseline, a = scatter.points
    assert baseline["name"] == "sum"
    assert baseline["x"] == 0.15000000000000002
    assert round(baseline["dx"], 3) == 0.635  # t(0.975, 1) * 0.0707 / sqrt(2)
    assert (a["name"], a["dx"], a["dy"]) == ("a", 0.0, 0.0)
    assert baseline["color"] != a["color"]
    without = quality_scatter(conditions, "sum", [describe("unknown"), describe("si_sdr_db"), describe("mel_distance")])
    assert without is not None
    assert (without.x.name, without.y.name) == ("mel_distance", "si_sdr_db")
    assert quality_scatter(conditions, "sum", [describe("visqol"), describe("unknown")]) is None
    assert quality_scatter(conditions[:1], "sum", measured) is None
