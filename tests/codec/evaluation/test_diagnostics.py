"""Diagnostics of logged records: each condition is provoked, and healthy records provoke none."""

import copy
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from codec.evaluation.report.diagnostics import DIVERGENCE, Diagnostics
from losses import AdversarialLoss, Tonality
from tiny_command import composed

HEALTHY = {
    "loss__l1": 0.1, "loss__mel": 0.6, "gradient_norm": 5.0, "rms__estimate": 0.1, "silent_fraction": 0.0,
    "codebook__0__perplexity": 500.0, "codebook__1__perplexity": 300.0, "codebook_size": 1024,
    "loss__adversarial": 1.1, "may_increase__adversarial": 1.0,
    "discriminator__loss": 1.8, "discriminator__uninformed_loss": 2.0,
    "discriminator__real": 0.1, "discriminator__fake": -0.1,
    "data_wait_fraction": 0.05, "seconds": 100.0,
}  # fmt: skip


def train_records(count: int = 60, **changed: Any) -> list[dict[str, Any]]:
    """Records of a healthy run. `changed` are values or functions of the record's number, with __ for a slash."""
    return [
        {"split": "train", "step": 20 * (n + 1)}
        | {k.replace("__", "/"): v(n) if callable(v) else v for k, v in (HEALTHY | changed).items()}
        for n in range(count)
    ]


def validation_records(*mel_distances: float, **values: float) -> list[dict[str, Any]]:
    common = {"codebook/0/perplexity": 9.0} | values
    return [
        {"split": "validation", "step": n, "speech/mel_distance": mel} | common for n, mel in enumerate(mel_distances)
    ]


def active(records: list[dict[str, Any]]) -> list[str]:
    diagnostics = Diagnostics()
    for record in records:
        diagnostics.update(record)
    return list(diagnostics.active)


# Healthy records


@pytest.mark.parametrize("seed", range(3))
def test_noise_of_a_factor_of_two_is_healthy(seed: int) -> None:
    """Records of single steps vary most; losses fall to a third, and gradient norms vary by a factor of ten."""
    random = np.random.default_rng(seed)
    wander = np.exp(np.cumsum(random.normal(0, 0.05, 3000)) % 2.3)

    def noisy(start: float, end: float, spread: float) -> Callable[[int], float]:
        return lambda n: (end + (start - end) * math.exp(-n / 500)) * math.exp(random.normal(0, spread))

    diagnostics, suspicious = Diagnostics(), 0
    for record in train_records(
        3000,
        loss__l1=noisy(0.1, 0.05, 0.35), loss__mel=noisy(0.9, 0.3, 0.2), loss__si_sdr=lambda n: 60 * 0.99**n - 8,
        gradient_norm=lambda n: wander[n] * math.exp(random.normal(0, 0.7)),
        rms__estimate=noisy(0.1, 0.1, 0.4), codebook__0__perplexity=noisy(500, 300, 0.5),
    ):  # fmt: skip
        diagnostics.update(record)
        assert diagnostics.active == {}
        suspicious += diagnostics.suspicious
    assert suspicious < 300  # rare enough that checkpoints are found to be good


def test_records_without_the_checked_values_are_healthy() -> None:
    assert active([]) == []
    assert active([{"split": "train", "step": n, "loss/mel": 1.0, "commitment": 0.1} for n in range(900)]) == []


def test_references_start_again_with_quantization_and_with_a_new_loss() -> None:
    few = [{k: v for k, v in r.items() if k.startswith(("split", "step", "loss/mel"))} for r in train_records(10)]
    assert active(few + train_records(loss__mel=2.4)[10:]) == []
    quantized = [r | {"codebook/0/perplexity": 500.0} for r in few]
    assert active(few + [r | {"loss/mel": 2.4} for r in quantized]) == []
    assert active(few + [r | {"loss/mel": 2.4, "loss/any_name": 1.0} for r in few]) == []
    assert active(train_records(loss__mel=lambda n: 0.6 if n < 10 else 2.4)) == [DIVERGENCE]


def test_a_loss_may_rise_where_the_record_says_so() -> None:
    untrained = {"split": "validation", "step": 0, "all/tonality_loss": 1e-4}
    rising: dict[str, Any] = {"loss__tonality": lambda n: 1e-4 + 0.001 * n}
    assert active([untrained, *train_records(**rising)]) == [DIVERGENCE]
    assert active([untrained, *train_records(**rising, may_increase__tonality=1.0)]) == []
    assert Tonality.may_increase


# Divergence


@pytest.mark.parametrize(
    ("changed", "after", "words"),
    [
        ({"loss__mel": lambda n: 0.6 if n < 40 else 60.6}, 1, "mel is 101 times"),
        ({"loss__mel": lambda n: 0.6 if n < 40 else 0.05 * n}, 5, "mel is "),
        ({"loss__l1": lambda n: 0.1 if n < 40 else None}, 1, "l1 is not finite"),
        ({"rms__estimate": lambda n: 0.1 if n < 40 else 40.0}, 1, "the output is 40 times"),
        ({"rms__estimate": lambda n: 0.1 if n < 40 else 1.2}, 5, "the output is 1.2 times"),
        ({"gradient_norm": lambda n: 5.0 if n < 40 else 1e4}, 5, "the gradient norm is 2,000 times"),
    ],
)
def test_a_divergence_is_detected_within_five_records(changed: dict[str, Any], after: int, words: str) -> None:
    diagnostics = Diagnostics()
    detected = []
    for n, record in enumerate(train_records(45, **changed)):
        diagnostics.update(record)
        detected += [n] if DIVERGENCE in diagnostics.active else []
    assert detected
    assert detected[0] == 39 + after
    assert words in diagnostics.active[DIVERGENCE]
    assert "optimizer.codec.lr" in diagnostics.active[DIVERGENCE]


def test_the_first_record_can_be_a_divergence() -> None:
    untrained = {"split": "validation", "step": 0, "speech/mel_distance": 1.8, "all/mel_loss": 0.9}
    assert active([untrained, *train_records(1, loss__mel=95.0)]) == [DIVERGENCE]
    assert active([untrained, *train_records(1, loss__mel=5.0)]) == []


def test_a_mel_distance_that_stays_high_is_a_divergence() -> None:
    assert active(validation_records(2.0, 1.0, 0.6, 1.2, 0.6, 1.0)) == []
    assert active(validation_records(2.0, 1.0, 0.6, 1.2, 1.0)) == [DIVERGENCE]
    assert active(validation_records(2.0, 1.0, 0.6, 1.2, 1.0) + train_records(1)) == [DIVERGENCE]
    assert active(validation_records(2.0, 1.0, 0.6, 1.2, 1.0, 0.7) + train_records(1)) == []
    assert active(validation_records(0.0, 0.0, 0.01, 0.02)) == []  # silent clips
    not_quantized = [{k: v for k, v in r.items() if "codebook" not in k} for r in validation_records(2.0, 0.4)]
    assert active(not_quantized + validation_records(0.8, 0.8, 0.7)) == []


def test_the_sentence_keeps_the_step_at_which_the_divergence_was_detected() -> None:
    diagnostics = Diagnostics()
    for record in validation_records(2.0, 1.0, 0.6, 1.2, 1.0) + train_records(3):
        diagnostics.update(record)
    assert "at step 4 the held-out mel distance is 1, its best value 0.6" in diagnostics.active[DIVERGENCE]


def test_zeros_are_no_reference() -> None:
    zeros = {"loss__l1": lambda n: 0.0 if n < 30 else 1.0, "gradient_norm": lambda n: 0.0 if n < 30 else 1.0}
    assert active(train_records(**zeros)) == []


# Other conditions


def test_silent_training_audio_hides_everything_else() -> None:
    assert active(train_records(silent_fraction=1.0, loss__mel=lambda n: 0.6 if n < 40 else None)) == ["silence"]
    assert active(train_records(silent_fraction=0.4)) == []
    assert active(train_records(4, silent_fraction=1.0)) == []


def test_few_codes_of_a_large_codebook() -> None:
    few: dict[str, Any] = {"codebook__0__perplexity": 30.0, "codebook__1__perplexity": 12.0}
    assert active(train_records(**few)) == ["collapse"]
    assert active(train_records(15, **few)) == []  # dead codes have not been replaced yet
    assert active(train_records(codebook__1__perplexity=4.0)) == ["dead codebooks"]
    assert active(train_records(codebook__1__perplexity=lambda n: 4.0 if n % 4 else 60.0)) == []  # they recover


def test_a_discriminator_that_wins_or_learns_nothing() -> None:
    won: dict[str, Any] = {"discriminator__loss": 0.01, "discriminator__real": 1.2, "discriminator__fake": -1.1}
    assert active(train_records(**won, loss__adversarial=2.1)) == ["discriminator won"]
    assert active(train_records(**won, loss__adversarial=lambda n: 2.1 * 0.97**n)) == []  # the codec catches up
    jumps = {"discriminator__loss": lambda n: 0.3 if n % 4 else 2.8, "discriminator__real": lambda n: n % 4 * 2.0}
    assert active(train_records(**jumps)) == ["discriminator unstable"]
    assert active(train_records(discriminator__loss=lambda n: 1.8 if n % 4 else 2.8)) == []
    nothing = ["discriminator learns nothing"]
    assert active(train_records(discriminator__real=0.001, discriminator__fake=0.0)) == nothing
    # The gap was large before, so the codec has improved.
    assert active(train_records(discriminator__real=lambda n: 0.3 if n < 20 else 0.0, discriminator__fake=0.0)) == []
    assert active(train_records(20, discriminator__real=0.001, discriminator__fake=0.0)) == []


def test_the_discriminators_loss_is_compared_with_its_uninformed_loss() -> None:
    """Least squares: 0.5 without information, so 0.7 is worse than nothing, and 0.02 is no sign of a win."""
    assert AdversarialLoss("least_squares").uninformed_discriminator_loss == 0.5
    assert AdversarialLoss("hinge").uninformed_discriminator_loss == 2.0
    jumps: dict[str, Any] = {
        "discriminator__loss": lambda n: 0.3 if n % 4 else 0.7,
        "discriminator__real": lambda n: n % 4 * 1.2,
    }
    assert active(train_records(**jumps)) == []
    assert active(train_records(**jumps, discriminator__uninformed_loss=0.5)) == ["discriminator unstable"]
    low: dict[str, Any] = {"discriminator__loss": 0.02, "loss__adversarial": 0.9, "discriminator__real": 0.8}
    assert active(train_records(**low)) == ["discriminator won"]
    assert active(train_records(**low, discriminator__uninformed_loss=0.5)) == []


def test_waiting_for_data() -> None:
    assert active(train_records(data_wait_fraction=0.47)) == ["data loading"]
    assert active(train_records(data_wait_fraction=0.47, seconds=20.0)) == []
    assert active(train_records(data_wait_fraction=lambda n: 0.9 if n < 10 else 0.02)) == []


# State and settings


def test_a_restored_state_continues_exactly() -> None:
    records = train_records(50, loss__mel=lambda n: 0.6 if n < 45 else 3.0, discriminator__real=lambda n: 0.1 * n)
    whole, first, second = Diagnostics(), Diagnostics(), Diagnostics()
    for n, record in enumerate(records):
        whole.update(record)
        if n < 48:
            first.update(record)
        elif n == 48:
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        if n >= 48:
            second.update(record)
    assert whole.state_dict() == second.state_dict()
    assert DIVERGENCE in whole.active
    assert whole.active == second.active


def test_every_setting_that_a_sentence_names_exists() -> None:
    provoked: list[dict[str, Any]] = [
        {"loss__mel": None},
        {"silent_fraction": 1.0},
        {"codebook__0__perplexity": 3.0, "codebook__1__perplexity": 3.0},
        {"codebook__0__perplexity": 3.0},
        {"discriminator__loss": 0.01},
        {"discriminator__loss": lambda n: 2.8 - n % 2, "discriminator__real": 5.0},
        {"discriminator__real": 0.0, "discriminator__fake": 0.0},
        {"data_wait_fraction": 0.5},
    ]
    sentences = {}
    for changed in provoked:
        diagnostics = Diagnostics()
        for record in train_records(**changed):
            diagnostics.update(record)
        sentences |= diagnostics.active
    assert len(sentences) == len(provoked)
    pattern = r"(?:codec|data|optimizer|trainer|adversarial)(?:\.\w+)+"
    settings = {name for text in sentences.values() for name in re.findall(pattern, text)}
    assert len(settings) == 11
    config = composed("train")
    assert [name for name in sorted(settings) if OmegaConf.select(config, name, default="-") == "-"] == []
