"""Advice on a run: a log that provokes each entry, and logs that provoke none."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch import Tensor, nn

from codec.evaluation.report.advice import advice
from codec.evaluation.report.page import write_report
from tiny_run import metric_lines, tidied, tiny_trainer

CONFIGS = Path(__file__).parents[3] / "configs"
HEALTHY = {
    "share/mel": 0.6, "share/l1": 0.4, "projection/mel": 0.7, "projection/l1": 0.3, "cosine/l1/mel": 0.2,
    "conflicts": 0.0, "weight/mel": 2.0, "weight/l1": 1.0, "loss/mel": 1.0, "loss/l1": 1.0, "commitment_ratio": 0.5,
    "skipped_steps": 0,
}  # fmt: skip
NO_CONFLICT = "No pair of losses conflicts: "


def log(count: int = 40, measured_every: int = 1, **changed: float | Callable[[int], Any]) -> list[dict[str, Any]]:
    """Records of a healthy run. `changed` are values, or functions of the record's number, with __ for a slash."""
    records: list[dict[str, Any]] = [{"split": "validation", "step": 0, "speech/mel_distance": 2.0}]
    for number in range(count):
        record = dict(HEALTHY)
        for name, value in changed.items():
            record[name.replace("__", "/")] = value(number) if callable(value) else value
        if number % measured_every:
            record = {k: v for k, v in record.items() if k.split("/")[0] in ("weight", "loss", "skipped_steps")}
        records.append({"split": "train", "step": 10 * (number + 1), **record})
    return records


def only(records: list[dict[str, Any]], words: str) -> str:
    """The only entry with these words."""
    (entry,) = (entry for entry in advice(records) if words in entry)
    return entry


def is_healthy(records: list[dict[str, Any]]) -> bool:
    """Whether the only entry says that no losses conflict."""
    entries = advice(records)
    return len(entries) == 1 and entries[0].startswith("No pair of losses conflicts")


def test_a_healthy_run_gets_one_entry() -> None:
    (entry,) = advice(log())
    assert entry.startswith(NO_CONFLICT)
    for words in ("40 measurements", "0.20 (l1 and mel)", "pcgrad, upgrad and dualproj"):
        assert words in entry


def test_no_advice_without_training_records() -> None:
    assert advice([]) == []
    assert advice([{"split": "validation", "step": 0, "speech/mel_distance": 2.0}]) == []


IN_DISCRIMINATOR = ("discriminator.compression=0.3", "adversarial.start_fraction")


@pytest.mark.parametrize(
    ("changed", "settings"),
    [
        ({}, ["+losses.terms.tonality", "+losses.weights.tonality"]),
        ({"loss__tonality": 0.1}, ["Raise losses.weights.tonality"]),
        (
            {"discriminator__loss": 1.0},
            [*("+losses.terms.tonality", "+losses.weights.tonality"), *IN_DISCRIMINATOR],
        ),
    ],
)
def test_ripple_in_the_treble(changed: dict[str, float], settings: list[str]) -> None:
    first, *train = log(**changed)
    scores = [{"split": "validation", "step": step, "speech/ripple_db": db} for step, db in ((0, 3.0), (400, 6.26))]
    entry = only([first, scores[0], *train, scores[1]], "ripple")
    assert "6.3 dB" in entry
    known = ("Raise losses.weights.tonality", "+losses.terms.tonality", "+losses.weights.tonality", *IN_DISCRIMINATOR)
    assert [setting for setting in known if setting in entry] == settings
    # Only the newest validation counts, and only if it has this score.
    for records in ([scores[1], *train, scores[0]], [scores[1], *train, first], [first, *train], [scores[1]]):
        assert not any("ripple" in entry for entry in advice(records))


def test_diagnostics_are_part_of_the_advice() -> None:
    assert only(log(data_wait_fraction=0.47, seconds=100), "data.num_workers").startswith("47 % ")
    # The first record includes the start of the workers. A few slow intervals do not count.
    for records in (
        log(data_wait_fraction=lambda number: 0.9 if number < 10 else 0.02, seconds=100),
        log(data_wait_fraction=0.47, seconds=20),
    ):
        assert is_healthy(records)


# Pairs of losses


def test_a_persistent_conflict() -> None:
    records = log(
        cosine__l1__mel=lambda number: -0.4 if number % 4 else 0.2, conflicts=lambda number: float(number % 4 > 0)
    )
    entry = only(records, "conflict")
    assert entry.startswith("l1 and mel conflict: ")
    for words in ("below -0.1 at 75 % of 40 measurements", "-0.25 on average", "balancer=upgrad", "balancer=pcgrad"):
        assert words in entry


def test_only_conflicting_pairs_are_listed() -> None:
    entries = advice(log(cosine__l1__adversarial=-0.3, cosine__mel__adversarial=-0.02, conflicts=2 / 3))
    assert [entry.split(":")[0] for entry in entries] == ["l1 and adversarial conflict"]


def test_a_conflict_is_persistent_from_half_of_the_measurements_on() -> None:
    for every, start in ((2, "l1 and mel conflict:"), (3, "No pair of losses conflicts persistently.")):
        records = log(36, cosine__l1__mel=lambda n, every=every: 0.2 if n % every else -0.3, conflicts=0.5)
        assert only(records, "conflict").startswith(start)


def test_a_weak_conflict_does_not_count() -> None:
    entry = only(log(cosine__l1__mel=-0.05, conflicts=1.0), "conflict")
    assert "l1 and mel: below -0.1 at 0 % of 40 measurements and -0.05 on average" in entry
    assert "negative at 100 % of the measurements" in entry


def test_a_conflict_hidden_in_the_mean_of_a_record_is_reported() -> None:
    entry = only(log(conflicts=lambda number: 0.5 * (number < 10)), "conflict")
    assert entry.startswith("No pair of losses conflicts persistently.")
    assert "negative at 25 % of the measurements" in entry


def test_a_single_loss_cannot_conflict() -> None:
    records = [
        {k: v for k, v in record.items() if "l1" not in k} for record in log(share__mel=1.0, projection__mel=1.0)
    ]
    assert advice(records) == []


# Single losses


def test_a_loss_without_effect() -> None:
    entry = only(log(share__l1=0.002, projection__l1=-0.001), "no effect")
    for words in ("l1 has", "0.2 % of the sum", "-0.1 % of the balanced gradient", "Raise losses.weights.l1"):
        assert words in entry


def test_a_short_gradient_that_determines_the_balanced_gradient_has_an_effect() -> None:
    assert is_healthy(log(share__l1=0.002, projection__l1=0.3))


def test_a_dominant_loss() -> None:
    entry = only(log(share__mel=0.93, share__l1=0.07, projection__mel=0.99, projection__l1=0.01), "dominates")
    for words in ("mel dominates", "93 %", "99 %", "Lower losses.weights.mel", "balancer=encodec"):
        assert words in entry
    assert is_healthy(log(share__mel=0.89, share__l1=0.11))


def test_a_loss_that_was_measured_alone_at_first_does_not_dominate() -> None:
    alone = [{k: v for k, v in r.items() if "/l1" not in k} for r in log(share__mel=1.0, projection__mel=1.0)]
    assert not any("dominates" in entry for entry in advice(alone + log()[1:]))


def test_a_loss_that_the_balanced_gradient_opposes() -> None:
    records = log(projection__l1=lambda number: -0.05 if number % 5 else 0.15, projection__mel=1.0)
    entry = only(records, "opposed")
    for words in ("l1 is opposed", "80 % of 40 measurements", "-1 %", "losses.weights.l1", "balancer=upgrad"):
        assert words in entry
    assert is_healthy(log(projection__l1=-0.004))  # nearly orthogonal


# Weights


def test_a_loss_that_is_computed_but_never_active() -> None:
    entry = only(log(weight__flat=0.0, loss__flat=1.0), "never active")
    assert entry.startswith("flat was never active in 40 records")
    assert "losses.weights.flat" in entry


def test_a_loss_that_was_never_computed() -> None:
    entry = only(log(weight__adversarial=0.0), "never active")
    assert "lower adversarial.start_fraction or raise trainer.max_steps" in entry
    assert is_healthy(log(weight__adversarial=lambda number: float(number == 39)))


def test_a_weight_that_grows_without_bound() -> None:
    entry = only(log(weight__l1=lambda number: 1.3**number), "grows without bound")
    for words in ("weight of l1", "(3.28, 45.3, 624, 8.61e+03 in the quarters of the run)", "losses.weights.l1=0"):
        assert words in entry


@pytest.mark.parametrize("course", [lambda n: 1.0 + n, lambda n: 1000 * (1 - 0.8**n) + 1, lambda n: 2.0**-n])
def test_a_weight_that_levels_off_or_falls_is_healthy(course: Callable[[int], float]) -> None:
    assert is_healthy(log(weight__l1=course))


def test_a_weight_at_a_limit() -> None:
    records = log(weight__l1=lambda number: min(100.0, 1.5**number), norm__l1=lambda number: 1.5**-number)
    entry = only(records, "limit")
    for words in ("weight of l1", "(6.33, 100, 100, 100 in the quarters of the run)", "balancer.warmup"):
        assert words in entry


@pytest.mark.parametrize("norm", [0.02, None])
def test_a_weight_that_is_constant_because_its_gradient_norm_is(norm: float | None) -> None:
    """The gradient of L1 is a sign, so its weight changes under encodec only where another loss is added."""
    course = {"weight__l1": lambda number: 40.0 if number < 10 else 16.0}
    assert is_healthy(log(**course, norm__l1=norm))  # type: ignore[arg-type]


def test_a_constant_weight_that_starts_in_the_middle_of_a_record_is_healthy() -> None:
    assert is_healthy(log(weight__l1=lambda number: 0.0 if number < 3 else 0.2 if number == 3 else 1.0))


# Commitment, skipped steps, rollbacks


@pytest.mark.parametrize(("ratio", "words"), [(42.0, ["42 times", "Lower"]), (0.004, ["0.4 %", "Raise"])])
def test_a_commitment_gradient_out_of_range(ratio: float, words: list[str]) -> None:
    entry = only(log(commitment_ratio=lambda number: 1.0 if number < 10 else ratio), "commitment gradient")
    for word in (*words, "trainer.codebooks.commitment_weight"):
        assert word in entry


def test_a_commitment_gradient_that_is_zero_or_in_range_is_healthy() -> None:
    for ratio in (0.0, 0.02, 9.0):
        assert is_healthy(log(commitment_ratio=ratio))


def test_skipped_steps() -> None:
    entry = only(log(skipped_steps=lambda number: number // 10), "skipped")
    for words in ("3 of 400 steps (0.75 %)", "log.txt", "optimizer.codec.lr", "trainer.gradient_clip_norm"):
        assert words in entry


def test_rollbacks() -> None:
    entry = only(log(rollbacks=lambda number: number // 20, lr=1.5e-4), "rolled back")
    for words in (" 1 time;", "0.00015", "log.txt", "optimizer.codec.lr"):
        assert words in entry


# Unusual logs


@pytest.mark.parametrize("measured", [0, 1, 4])
def test_too_few_measurements(measured: int) -> None:
    records = log(cosine__l1__mel=-0.9, conflicts=1.0, share__l1=0.001, projection__l1=-0.5)
    few = [{k: v for k, v in r.items() if k in ("split", "step", "weight/l1")} for r in records[measured:]]
    (entry,) = advice(records[:1] + records[1 : measured + 1] + few[1:])
    assert re.search(rf"needs 5 measurements, and there (is|are) {measured}\.", entry)
    assert "balancer.monitor_every" in entry


def test_records_between_measurements_do_not_count() -> None:
    assert "at 10 measurements" in only(log(measured_every=4), "conflict")


def test_values_that_are_not_numbers_are_ignored() -> None:
    broken = {name: lambda number, name=name: HEALTHY[name.replace("__", "/")] if number % 2 else None
              for name in ("share__l1", "cosine__l1__mel", "weight__l1", "commitment_ratio", "conflicts")}  # fmt: skip
    assert "at 20 measurements" in only(log(**broken), NO_CONFLICT)
    assert advice(log(skipped_steps="many", weight__l1="high", share__l1=float("nan"))) == []


# Settings


@pytest.fixture
def _configs() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base=None):
        yield


@pytest.mark.usefixtures("_configs")
def test_every_setting_that_an_entry_names_exists() -> None:
    provoked = [
        log(cosine__l1__mel=-0.4, conflicts=1.0, share__l1=0.002, projection__l1=-0.001, weight__mel=lambda n: 1.3**n),
        log(share__mel=0.95, projection__l1=-0.05, commitment_ratio=50.0, weight__adversarial=0.0, skipped_steps=3),
        log(commitment_ratio=0.001, weight__l1=lambda n: min(99.0, 1.5**n), weight__mel=0.0, norm__l1=lambda n: n),
        log(4),
        [*log(discriminator__loss=1.0), {"split": "validation", "step": 400, "speech/ripple_db": 9.0}],
    ]
    text = " ".join(entry for records in provoked for entry in advice(records))
    config = compose("train", overrides=["experiment=starter_seanet"])
    settings = set(re.findall(r"(?<!=)(?:losses|balancer|optimizer|trainer|adversarial|discriminator)(?:\.\w+)+", text))
    assert len(settings) >= 12
    missing = [setting for setting in sorted(settings) if OmegaConf.select(config, setting, default="-") == "-"]
    assert missing == []
    balancers = set(re.findall(r"balancer=(\w+)", text))
    assert balancers == {"encodec", "pcgrad", "upgrad"}
    assert [name for name in balancers if not (CONFIGS / "balancer" / f"{name}.yaml").exists()] == []


# A real run


class SquaredDistanceTo(nn.Module):
    """Mean squared distance of the estimate to a constant."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        return (estimate - self.level).square().mean()


def test_a_run_with_two_opposed_losses(tmp_path: Path) -> None:
    with tidied():
        trainer = tiny_trainer(
            tmp_path,
            losses={"up": SquaredDistanceTo(1.0), "down": SquaredDistanceTo(-1.0)}, weights={"up": 1.0, "down": 3.0},
            monitor_every=1, log_every=1, max_steps=8,
        )  # fmt: skip
        trainer.run()
    entries = advice(metric_lines(trainer))
    assert entries[0].startswith("up and down conflict: ")
    assert re.search(r"below -0\.1 at 100 % of 8 measurements and -[01]\.\d\d on average", entries[0])
    assert any("up is opposed" in entry and "100 %" in entry for entry in entries)
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert page.index("Balance of the losses") < page.index("up and down conflict") < page.index("<figcaption>share of")
