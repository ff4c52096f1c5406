"""What is named in a run's log is there, and what is there is named: one provoked log for each finding."""

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
SOUND = {
    "share/mel": 0.6, "share/l1": 0.4, "projection/mel": 0.7, "projection/l1": 0.3, "cosine/l1/mel": 0.2,
    "conflicts": 0.0, "weight/mel": 2.0, "weight/l1": 1.0, "loss/mel": 1.0, "loss/l1": 1.0, "commitment_ratio": 0.5,
    "skipped_steps": 0,
}  # fmt: skip


def log(count: int = 40, measured_every: int = 1, **changed: float | Callable[[int], Any]) -> list[dict[str, Any]]:
    """Lines of a sound run; `changed` are values, or functions of the line's number, with __ for a slash."""
    records: list[dict[str, Any]] = [{"split": "validation", "step": 0, "all/mel_distance": 2.0}]
    for number in range(count):
        record = dict(SOUND)
        for name, value in changed.items():
            record[name.replace("__", "/")] = value(number) if callable(value) else value
        if number % measured_every:
            record = {k: v for k, v in record.items() if k.split("/")[0] in ("weight", "loss", "skipped_steps")}
        records.append({"split": "train", "step": 10 * (number + 1), **record})
    return records


def one(records: list[dict[str, Any]], about: str) -> str:
    """The only finding with these words."""
    (found,) = (sentence for sentence in advice(records) if about in sentence)
    return found


def test_a_sound_run_says_only_that_nothing_conflicts() -> None:
    assert advice(log()) == [
        "No pair of losses conflicts: at 40 measurements no cosine is negative, and the lowest mean is 0.20 (l1 and "
        "mel); pcgrad, upgrad and dualproj then have the direction of the weighted sum."
    ]


def test_nothing_to_say_without_a_log() -> None:
    assert advice([]) == []
    assert advice([{"split": "validation", "step": 0, "all/mel_distance": 2.0}]) == []


@pytest.mark.parametrize(
    ("lines", "change"),
    [
        ({}, "a buzz; raise losses.weights.tonality (losses=starter has that loss)."),
        (
            {"loss__adversarial": 1.0},
            "that loss), or set discriminator.compression=0.3, or lower adversarial.start_fraction.",
        ),
    ],
)
def test_treble_that_came_out_as_tones(lines: dict[str, float], change: str) -> None:
    first, *train = log(**lines)
    scores = [{"split": "validation", "step": step, "all/ripple_db": db} for step, db in ((0, 3.0), (400, 6.26))]
    found = one([first, scores[0], *train, scores[1]], "Treble")
    assert found.startswith("Treble comes out as tones (a ripple of 6.3 dB over the held-out clips")
    assert change in found
    # The newest validation counts, and one that had no such score says nothing.
    for records in ([scores[1], *train, scores[0]], [scores[1], *train, first], [first, *train], [scores[1]]):
        assert not any("Treble" in sentence for sentence in advice(records))


# Loading


def test_a_run_that_waits_for_its_data_is_told_so() -> None:
    assert one(log(data_wait_fraction=0.47, seconds=100), "waiting for data").startswith(
        "47 % of the time went into waiting for data"
    )
    # Starting the readers is not starving, nor are a few slow intervals.
    for records in (
        log(data_wait_fraction=lambda number: 0.9 if number < 10 else 0.02, seconds=100),
        log(data_wait_fraction=0.47, seconds=20),
    ):
        assert not [sentence for sentence in advice(records) if "waiting" in sentence]


# Pairs


def test_a_persistent_conflict_is_named_with_its_cosine() -> None:
    records = log(
        cosine__l1__mel=lambda number: -0.4 if number % 4 else 0.2, conflicts=lambda number: float(number % 4 > 0)
    )
    found = one(records, "conflict")
    assert found.startswith(
        "l1 and mel conflict: their cosine is below -0.1 at 75 % of 40 measurements and -0.25 on av"
    )
    assert "balancer=upgrad" in found


def test_only_the_pairs_that_conflict_are_named() -> None:
    found = advice(log(cosine__l1__adversarial=-0.3, cosine__mel__adversarial=-0.02, conflicts=2 / 3))
    assert [sentence.split(":")[0] for sentence in found] == ["l1 and adversarial conflict"]


def test_a_conflict_of_half_the_measurements_is_one_and_of_fewer_is_not() -> None:
    for every, wanted in (
        (2, "l1 and mel conflict:"),
        (3, "No pair of losses conflicts persistently: l1 and mel come"),
    ):
        records = log(36, cosine__l1__mel=lambda n, every=every: 0.2 if n % every else -0.3, conflicts=0.5)
        assert one(records, "conflict").startswith(wanted)


def test_a_weak_conflict_is_none() -> None:
    found = one(log(cosine__l1__mel=-0.05, conflicts=1.0), "conflict")
    assert "l1 and mel come closest, with a cosine below -0.1 at 0 % of 40 measurements and -0.05 on average" in found
    assert found.endswith("only where a cosine is negative, at 100 % of them.")


def test_a_conflict_hidden_in_the_mean_of_a_line_is_not_denied() -> None:
    found = one(log(conflicts=lambda number: 0.5 * (number < 10)), "conflict")
    assert found.startswith("No pair of losses conflicts persistently")
    assert found.endswith("at 25 % of them.")


def test_a_single_loss_has_nothing_to_conflict_with() -> None:
    records = [
        {k: v for k, v in record.items() if "l1" not in k} for record in log(share__mel=1.0, projection__mel=1.0)
    ]
    assert advice(records) == []


# Losses


def test_a_loss_without_a_say() -> None:
    found = one(log(share__l1=0.002, projection__l1=-0.001), "no say")
    assert found == (
        "l1 has no say: 0.2 % of the length of the weighted gradients and -0.1 % of their result on average; raise "
        "losses.weights.l1, or leave the loss out."
    )


def test_a_short_gradient_that_decides_the_result_has_a_say() -> None:
    assert len(advice(log(share__l1=0.002, projection__l1=0.3))) == 1


def test_a_loss_that_dominates() -> None:
    found = one(log(share__mel=0.93, share__l1=0.07, projection__mel=0.99, projection__l1=0.01), "dominates")
    assert found.startswith(
        "mel dominates: 93 % of the length of the weighted gradients and 99 % of their result on av"
    )
    assert "losses.weights.mel" in found
    assert len(advice(log(share__mel=0.89, share__l1=0.11))) == 1


def test_a_loss_measured_alone_at_first_does_not_dominate() -> None:
    alone = [{k: v for k, v in r.items() if "/l1" not in k} for r in log(share__mel=1.0, projection__mel=1.0)]
    assert not any("dominates" in sentence for sentence in advice(alone + log()[1:]))


def test_a_loss_that_points_against_the_result() -> None:
    records = log(projection__l1=lambda number: -0.05 if number % 5 else 0.15, projection__mel=1.0)
    found = one(records, "points against")
    assert found.startswith("l1 points against the result at 80 % of 40 measurements (projection -1 % on average)")
    assert len(advice(log(projection__l1=-0.004))) == 1  # across it, rather


# Weights


def test_a_loss_that_is_computed_but_never_active() -> None:
    assert advice(log(weight__flat=0.0, loss__flat=1.0))[0] == (
        "flat was never active in 40 lines of the log: its gradient is 0, or losses.weights.flat is."
    )


def test_a_loss_whose_turn_never_came() -> None:
    found = one(log(weight__adversarial=0.0), "never active")
    assert found.endswith("nor was it computed; lower adversarial.start_fraction or raise trainer.max_steps.")
    assert len(advice(log(weight__adversarial=lambda number: float(number == 39)))) == 1


def test_a_weight_that_grows_without_end() -> None:
    found = one(log(weight__l1=lambda number: 1.3**number), "grows without levelling off")
    assert found.startswith(
        "The weight of l1 grows without levelling off (3.28, 45.3, 624, 8.61e+03 in the quarters of"
    )


@pytest.mark.parametrize("course", [lambda n: 1.0 + n, lambda n: 1000 * (1 - 0.8**n) + 1, lambda n: 2.0**-n])
def test_a_weight_that_levels_off_or_falls_is_no_finding(course: Callable[[int], float]) -> None:
    assert len(advice(log(weight__l1=course))) == 1


def test_a_weight_at_a_limit() -> None:
    records = log(weight__l1=lambda number: min(100.0, 1.5**number), norm__l1=lambda number: 1.5**-number)
    found = one(records, "stands still at last")
    assert found.startswith("The weight of l1 stands still at last (6.33, 100, 100, 100 in the quarters of the run)")
    assert "balancer.warmup" in found


@pytest.mark.parametrize("norm", [0.02, None])
def test_a_weight_that_rests_because_its_gradient_does_is_no_finding(norm: float | None) -> None:
    """The gradient of L1 is a sign: under encodec its weight changes only where another loss sets in."""
    course = {"weight__l1": lambda number: 40.0 if number < 10 else 16.0}
    assert len(advice(log(**course, norm__l1=norm))) == 1  # type: ignore[arg-type]


def test_a_constant_weight_that_starts_in_the_middle_of_a_line_is_no_finding() -> None:
    assert len(advice(log(weight__l1=lambda number: 0.0 if number < 3 else 0.2 if number == 3 else 1.0))) == 1


# Commitment and steps


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(42.0, "42 times as long as"), (0.004, "0.4 % as long as")],
)
def test_a_commitment_out_of_proportion(ratio: float, words: str) -> None:
    found = one(log(commitment_ratio=lambda number: 1.0 if number < 10 else ratio), "commitment gradient is")
    assert words in found
    assert "trainer.codebooks.commitment_weight" in found


def test_a_commitment_that_is_switched_off_or_in_proportion_is_no_finding() -> None:
    for ratio in (0.0, 0.02, 9.0):
        assert len(advice(log(commitment_ratio=ratio))) == 1


def test_skipped_steps() -> None:
    found = one(log(skipped_steps=lambda number: number // 10), "skipped")
    assert found.startswith("3 of 400 steps (0.75 %) were skipped as not finite")


# Odd logs


@pytest.mark.parametrize("measured", [0, 1, 4])
def test_too_few_measurements_are_no_rule(measured: int) -> None:
    records = log(cosine__l1__mel=-0.9, conflicts=1.0, share__l1=0.001, projection__l1=-0.5)
    few = [{k: v for k, v in r.items() if k in ("split", "step", "weight/l1")} for r in records[measured:]]
    assert advice(records[:1] + records[1 : measured + 1] + few[1:]) == [
        f"Measurements of the gradients: {measured}, too few to judge their balance; lower balancer.monitor_every."
    ]


def test_lines_between_measurements_do_not_count() -> None:
    assert "at 10 measurements" in one(log(measured_every=4), "conflict")


def test_values_that_are_not_numbers_are_passed_over() -> None:
    broken = {name: lambda number, name=name: SOUND[name.replace("__", "/")] if number % 2 else None
              for name in ("share__l1", "cosine__l1__mel", "weight__l1", "commitment_ratio", "conflicts")}  # fmt: skip
    assert one(log(**broken), "conflict").startswith("No pair of losses conflicts: at 20 measurements")
    assert advice(log(skipped_steps="many", weight__l1="high", share__l1=float("nan"))) == []


# The settings that findings name


@pytest.fixture
def _configs() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base=None):
        yield


@pytest.mark.usefixtures("_configs")
def test_every_setting_that_a_finding_names_exists() -> None:
    provoked = [
        log(cosine__l1__mel=-0.4, conflicts=1.0, share__l1=0.002, projection__l1=-0.001, weight__mel=lambda n: 1.3**n),
        log(share__mel=0.95, projection__l1=-0.05, commitment_ratio=50.0, weight__adversarial=0.0, skipped_steps=3),
        log(commitment_ratio=0.001, weight__l1=lambda n: min(99.0, 1.5**n), weight__mel=0.0, norm__l1=lambda n: n),
        log(4),
        [*log(loss__adversarial=1.0), {"split": "validation", "step": 400, "all/ripple_db": 9.0}],
    ]
    text = " ".join(sentence for records in provoked for sentence in advice(records))
    config = compose("train", overrides=["experiment=starter"])
    settings = set(re.findall(r"(?:losses|balancer|optimizer|trainer|adversarial|discriminator)(?:\.\w+)+", text))
    assert len(settings) >= 12
    missing = [setting for setting in sorted(settings) if OmegaConf.select(config, setting, default="-") == "-"]
    assert missing == []
    balancers = set(re.findall(r"balancer=(\w+)", text))
    assert balancers == {"encodec", "pcgrad", "upgrad"}
    assert [name for name in balancers if not (CONFIGS / "balancer" / f"{name}.yaml").exists()] == []


# A real run


class Level(nn.Module):
    """Asks for a constant."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        return (estimate - self.level).square().mean()


def test_two_opposed_losses_of_a_run_are_found_and_shown(tmp_path: Path) -> None:
    with tidied():
        trainer = tiny_trainer(
            tmp_path,
            losses={"up": Level(1.0), "down": Level(-1.0)}, weights={"up": 1.0, "down": 3.0},
            monitor_every=1, log_every=1, max_steps=8,
        )  # fmt: skip
        trainer.run()
    found = advice(metric_lines(trainer))
    assert re.match(
        r"up and down conflict: their cosine is below -0.1 at 100 % of 8 measurements and -[01]\.\d\d", found[0]
    )
    assert any(sentence.startswith("up points against the result at 100 %") for sentence in found)
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert (
        page.index("Balance of the losses") < page.index("up and down conflict") < page.index("share of the weighted")
    )
