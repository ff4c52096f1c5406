"""Diagnostics of a training run: a sentence for each group of logged values that is out of range.

The training loop updates the diagnostics with every record that it logs. The report reads the same records from
metrics.jsonl and gets the same sentences. Everything that depends on a loss or a discriminator is read from the
records: `may_increase/NAME` marks losses that rise in healthy training, and `discriminator/uninformed_loss` is the
loss of a discriminator that cannot tell real from coded audio.
"""

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from codec.evaluation.report.divergence_check import DivergenceCheck, finite_or_infinity

__all__ = ["DIVERGENCE", "Diagnostics"]

Record = Mapping[str, Any]

DIVERGENCE = "divergence"

_RECORDS = 5  # a condition that lasts for fewer records is not reported
_SILENT = 0.5  # fraction of silent segments; the sampler avoids silence where it can
# Effective codes (perplexity) as a fraction of the codebook size, mean over codebooks; trained ones have 0.3 to 0.9. A
# single codebook may fall to 0.06 before its dead codes are replaced.
_COLLAPSED = 0.05
# A codebook is dead with fewer effective codes than this number or this fraction of its size.
_DEAD_CODES, _DEAD_FRACTION = 2.0, 0.005
_CODEBOOK_STEPS = 300  # an unused code is replaced after about 230 steps
# The discriminator's loss as a fraction of the uninformed loss: a good one has about half. Its mean logits of real and
# of coded audio differ by 0.1 to 1, and with a hinge loss neither rewards a difference above 2.
_LOW_LOSS, _LARGE_GAP, _WINNING_RECORDS, _WINNING_STEPS = 0.025, 3.0, 10, 100
_HIGH_LOSS = 1.25
_SMALL_GAP, _SMALL_GAP_STEPS = 0.05, 500  # a discriminator that learns exceeds this gap within this many steps
# Fraction of the time spent waiting for data above which loading limits the training speed.
_DATA_WAIT, _DATA_WAIT_RECORDS = 0.3, 20
_DATA_WAIT_SECONDS = 30  # of training; a shorter run would gain little

_STATE = ("silent", "perplexities", "first_quantized_step", "discriminator", "first_discriminator_step", "largest_gap")


class Diagnostics:
    """Reads the records of a run in their order.

    Attributes:
        active: A sentence for each condition that holds since the last record. The names of the conditions are
            `divergence`, `silence`, `collapse`, `dead codebooks`, `discriminator won`, `discriminator unstable`,
            `discriminator learns nothing` and `data loading`. Silent training audio explains all others, so `silence`
            hides them.
    """

    def __init__(self) -> None:
        self.active: dict[str, str] = {}
        self._divergence = DivergenceCheck()
        self._silent: list[float] = []
        self._perplexities: list[list[float]] = []
        self._first_quantized_step: int | None = None
        # Of the newest records: the discriminator's loss over the uninformed one, the adversarial loss, the logit gap.
        self._discriminator: list[list[float]] = []
        self._first_discriminator_step: int | None = None
        self._largest_gap = 0.0
        # Not part of the state, because it depends on the machine. None before the first record of a session, which
        # includes the start of the data loaders.
        self._data_waits: list[float] | None = None

    @property
    def suspicious(self) -> bool:
        """Whether the newest values may belong to a divergence that has just begun."""
        return self._divergence.suspicious

    def update(self, record: Record) -> None:
        """Takes a record of either split. Values that are not finite may be None."""
        if record["split"] == "validation":
            self._divergence.update_validation(record)
            self._set_divergence()
        elif record["split"] == "train":
            self.active = {name: text for name, text in self.active.items() if name == DIVERGENCE}
            self._check_level(record)
            if "silence" not in self.active:
                self._divergence.update_train(record)
                self._set_divergence()
                self._check_codebooks(record)
                self._check_discriminator(record)
                self._check_data_loading(record)

    def state_dict(self) -> dict[str, Any]:
        """Primitives only."""
        return {
            "divergence": self._divergence.state_dict(),
            **{name: getattr(self, f"_{name}") for name in _STATE},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._divergence.load_state_dict(state["divergence"])
        for name in _STATE:
            setattr(self, f"_{name}", state[name])
        self.active = {}

    def _set_divergence(self) -> None:
        self.active.pop(DIVERGENCE, None)
        if self._divergence.message is not None:
            self.active[DIVERGENCE] = (
                f"Training diverges: {self._divergence.message}. Lower optimizer.codec.lr, raise "
                "trainer.lr_schedule.warmup_fraction, or set trainer.gradient_clip_norm."
            )

    def _check_level(self, record: Record) -> None:
        if "silent_fraction" not in record:
            return
        self._silent = [*self._silent, finite_or_infinity(record["silent_fraction"])][-_RECORDS:]
        silent = median(self._silent)
        if len(self._silent) == _RECORDS and silent > _SILENT:
            self.active["silence"] = (
                f"{100 * silent:.0f} % of the training segments are silent (below -60 dBFS). Set data.root to a folder "
                "of audible recordings, and check the files for empty channels."
            )

    def _check_codebooks(self, record: Record) -> None:
        size = record.get("codebook_size")
        effective: list[float] = []
        while f"codebook/{len(effective)}/perplexity" in record:
            effective.append(finite_or_infinity(record[f"codebook/{len(effective)}/perplexity"]))
        if not effective or not size:
            return
        if self._first_quantized_step is None:
            self._first_quantized_step = record["step"]
        self._perplexities = [*self._perplexities, effective][-_RECORDS:]
        if len(self._perplexities) < _RECORDS or record["step"] - self._first_quantized_step < _CODEBOOK_STEPS:
            return
        highest = [max(perplexities) for perplexities in zip(*self._perplexities, strict=False)]
        mean = sum(highest) / len(highest)
        if mean - 1 < _COLLAPSED * (size - 1):
            self.active["collapse"] = (
                f"The codebooks have collapsed: on average {mean:.1f} of {size:g} codes are in effective use. Raise "
                "trainer.codebooks.start_fraction so that the encoder is trained first, "
                "or raise codec.quantizer.dead_code_threshold."
            )
            return
        dead = [str(k + 1) for k, codes in enumerate(highest) if codes < max(_DEAD_CODES, _DEAD_FRACTION * size)]
        if dead:
            subject, verb = ("Codebook", "is") if len(dead) == 1 else ("Codebooks", "are")
            self.active["dead codebooks"] = (
                f"{subject} {', '.join(dead)} of {len(highest)} {verb} dead: almost every frame gets the same code, so "
                "these bits carry no information. "
                "Raise codec.quantizer.dead_code_threshold, or lower codec.quantizer.num_codebooks."
            )

    def _check_discriminator(self, record: Record) -> None:
        needed = ("discriminator/loss", "loss/adversarial", "discriminator/real", "discriminator/fake")
        uninformed = record.get("discriminator/uninformed_loss")
        if not uninformed or any(key not in record for key in needed):
            return
        loss, adversarial, real, fake = (finite_or_infinity(record[key]) for key in needed)
        values = [loss / uninformed, adversarial, abs(real - fake)]
        self._discriminator = [*self._discriminator, values][-_WINNING_RECORDS:]
        if self._first_discriminator_step is None:
            self._first_discriminator_step = record["step"]
        if len(self._discriminator) < _RECORDS:
            return
        gap = median(gap for _, _, gap in self._discriminator[-_RECORDS:])
        self._largest_gap = max(gap, self._largest_gap)
        steps = record["step"] - self._first_discriminator_step
        if steps >= _WINNING_STEPS and self._is_discriminator_unstable():
            losses, _, gaps = zip(*self._discriminator, strict=True)
            self.active["discriminator unstable"] = (
                f"The discriminator is unstable: in the last {len(losses)} records its loss was between "
                f"{uninformed * min(losses):.2g} and {uninformed * max(losses):.2g}, where {uninformed:.2g} is that of "
                f"a discriminator without information, and its mean logits of real and coded audio differed by up to "
                f"{max(gaps):.2g}. Lower optimizer.discriminator.lr."
            )
        elif steps >= _WINNING_STEPS and self._has_discriminator_won():
            loss, adversarial, gap = (median(column) for column in zip(*self._discriminator, strict=True))
            self.active["discriminator won"] = (
                f"The discriminator is too strong for the codec: its loss is {uninformed * loss:.2g}, its mean logits "
                f"of real and coded audio differ by {gap:.2g}, and the codec's adversarial loss stays at "
                f"{adversarial:.2g}. Lower optimizer.discriminator.lr or adversarial.update_probability, or raise "
                "adversarial.start_fraction."
            )
        elif self._largest_gap < _SMALL_GAP and steps >= _SMALL_GAP_STEPS:
            self.active["discriminator learns nothing"] = (
                f"The discriminator learns nothing: after {steps} steps its mean logits of real and coded audio differ "
                f"by {gap:.2g}. Raise optimizer.discriminator.lr or adversarial.update_probability."
            )

    def _has_discriminator_won(self) -> bool:
        if len(self._discriminator) < _WINNING_RECORDS:
            return False
        losses, adversarial, gaps = zip(*self._discriminator, strict=True)
        if median(losses) >= _LOW_LOSS and median(gaps) <= _LARGE_GAP:
            return False
        half = len(adversarial) // 2
        return median(adversarial[half:]) > 0.9 * median(adversarial[:half])  # the codec does not catch up

    def _is_discriminator_unstable(self) -> bool:
        losses, _, gaps = zip(*self._discriminator, strict=True)
        return max(losses) > _HIGH_LOSS and max(gaps) > _LARGE_GAP

    def _check_data_loading(self, record: Record) -> None:
        if "data_wait_fraction" not in record:
            return
        if self._data_waits is None:
            self._data_waits = []
            return
        self._data_waits = [*self._data_waits, finite_or_infinity(record["data_wait_fraction"])][-_DATA_WAIT_RECORDS:]
        wait = median(self._data_waits)
        long_enough = finite_or_infinity(record.get("seconds", math.inf)) >= _DATA_WAIT_SECONDS
        if long_enough and len(self._data_waits) >= _RECORDS and wait > _DATA_WAIT:
            self.active["data loading"] = (
                f"{100 * wait:.0f} % of the time was spent waiting for data. Raise data.num_workers, or store the "
                "audio on a faster disk."
            )
