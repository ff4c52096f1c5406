"""Detects a diverging run from its logged losses, gradient norms, output level and validation scores."""

import copy
import math
from collections.abc import Mapping
from statistics import median
from typing import Any

__all__ = ["DivergenceCheck"]

Record = Mapping[str, Any]

# A loss is out of range at this multiple of its lowest median since the last change of the training task. The run
# diverges after this many consecutive records out of range. Records of a single step vary by a factor of 1.4; with
# these numbers, noise alone makes one run in a thousand diverge.
_RISE, _RISING_RECORDS = 3.0, 5
# The lowest median counts as at least this fraction of the first one, so a loss that has fallen a lot may rise again.
_FLOOR = 0.1
_MEDIAN_RECORDS = 10
# One record is enough at this multiple, which is a mean over the steps of the record.
_EXPLOSION = 100.0
# RMS of the output: the first is out of range, the second is a divergence in one record. Full scale is 1.
_LOUD, _LOUDEST = 1.0, 30.0
# Gradients vary more than losses: a quiet batch or a new loss changes their norm tenfold.
_GRADIENT_RISE = 100.0
# The held-out clips never change, so their mel distance varies little. The run diverges after this many consecutive
# validations above `_MEL_RISE` times the best one plus `_MEL_SLACK`.
_MEL_RISE, _MEL_SLACK, _MEL_VALIDATIONS = 1.5, 0.05, 2

_STATE = ("history", "references", "loss_names", "quantized", "rising", "worse")


class DivergenceCheck:
    """Reads records in their order. Losses that `may_increase/NAME` of a record names are not checked.

    Attributes:
        message: What is out of range, or None while the run does not diverge.
    """

    def __init__(self) -> None:
        self.message: str | None = None
        self.history: list[dict[str, float]] = []  # the newest records in range
        self.references: dict[str, float] = {}  # values that losses and scores are compared with
        self.loss_names: list[str] = []  # all losses so far
        self.quantized = False  # whether the latents have been quantized
        self.rising = 0  # consecutive train records out of range
        self.worse = 0  # consecutive validations with a bad mel distance

    @property
    def suspicious(self) -> bool:
        """Whether the newest values may belong to a divergence that has just begun."""
        return self.rising > 0 or self.worse > 0

    def state_dict(self) -> dict[str, Any]:
        """Primitives only."""
        return {name: copy.deepcopy(getattr(self, name)) for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        for name in _STATE:
            setattr(self, name, copy.deepcopy(state[name]))
        self.message = None

    def update_train(self, record: Record) -> None:
        """Takes a record of training."""
        self._start_again_after_a_change(record)
        values = _checked_losses(record)
        level = finite_or_infinity(record.get("rms/estimate", 0.0))
        loud = f"the output is {_times(level)} as loud as full scale"
        exploded = self._risen(values, _EXPLOSION) + [loud] * (level > _LOUDEST)
        risen = self._risen(values, _RISE) + [loud] * (level > _LOUD)
        if "gradient_norm" in record:
            values["gradient_norm"] = finite_or_infinity(record["gradient_norm"])
            risen += self._risen_gradient(values["gradient_norm"])
        out_of_range = exploded or risen
        self.rising = self.rising + 1 if out_of_range else 0
        if exploded or self.rising >= _RISING_RECORDS:
            self.message = f"at step {record['step']} {out_of_range[0]}"
        if not out_of_range:
            self._clear_message()
            self._remember(values)

    def update_validation(self, record: Record) -> None:
        """Takes a record of validation."""
        for key in record:
            if key.startswith("all/") and key.endswith("_loss"):
                name = f"untrained/loss/{key[len('all/') : -len('_loss')]}"
                self.references.setdefault(name, finite_or_infinity(record[key]))
        distances = [finite_or_infinity(value) for name, value in record.items() if name.endswith("/mel_distance")]
        if not distances:
            return
        # The scores of quantized latents are not comparable with those of latents that are not quantized.
        key = "mel/quantized" if "codebook/0/perplexity" in record else "mel/not_quantized"
        mel = sum(distances) / len(distances)  # over the groups: a diverging run is worse in all of them
        best = self.references.get(key, math.inf)
        self.references[key] = min(best, mel)
        self.worse = self.worse + 1 if mel > _MEL_RISE * best + _MEL_SLACK else 0
        if self.worse >= _MEL_VALIDATIONS:
            self.message = f"at step {record['step']} the held-out mel distance is {mel:.3g}, its best value {best:.3g}"
        self._clear_message()

    def _clear_message(self) -> None:
        if not self.rising and self.worse < _MEL_VALIDATIONS:
            self.message = None

    def _start_again_after_a_change(self, record: Record) -> None:
        """Losses rise when quantization starts and when a loss is added, so older values are no reference."""
        new = [key for key in record if key.startswith("loss/") and key not in self.loss_names]
        quantized = "codebook/0/perplexity" in record and not self.quantized
        if new or quantized:
            self.loss_names = [*self.loss_names, *new]
            self.quantized = self.quantized or quantized
            self.history = []
            kept = ("untrained/", "mel/")
            self.references = {key: value for key, value in self.references.items() if key.startswith(kept)}

    def _risen(self, losses: Mapping[str, float], factor: float) -> list[str]:
        """A phrase for each loss above `factor` times its reference, and for each loss that is not finite."""
        phrases = []
        for key, value in losses.items():
            reference = self.references.get(f"lowest/{key}", math.inf)
            if reference == math.inf and factor >= _EXPLOSION:
                # Measured on other audio than the training loss, so only a large factor means anything.
                reference = self.references.get(f"untrained/{key}", math.inf)
            name = key.removeprefix("loss/")
            if not math.isfinite(value):
                phrases.append(f"{name} is not finite")
            elif reference > 0 and value > factor * reference:
                phrases.append(f"{name} is {_times(value / reference)} its lowest value")
        return phrases

    def _risen_gradient(self, norm: float) -> list[str]:
        usual = [old["gradient_norm"] for old in self.history if "gradient_norm" in old]
        if len(usual) == _MEDIAN_RECORDS and norm > _GRADIENT_RISE * median(usual) > 0:
            return [f"the gradient norm is {_times(norm / median(usual))} its recent median"]
        return []

    def _remember(self, values: dict[str, float]) -> None:
        """Adds a record in range, and updates the lowest median of each loss."""
        self.history = [*self.history, values][-_MEDIAN_RECORDS:]
        if len(self.history) < _MEDIAN_RECORDS:
            return
        for key in values.keys() - {"gradient_norm"}:
            now = median(old.get(key, math.inf) for old in self.history)
            # A loss in decibels passes through zero, where a ratio of values means nothing.
            floor = _FLOOR * self.references.setdefault(f"first/{key}", now)
            lowest = self.references.get(f"lowest/{key}", math.inf)
            self.references[f"lowest/{key}"] = max(min(lowest, now), floor)


def finite_or_infinity(value: Any) -> float:
    """Infinity, which is out of every range, for anything but a finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.inf


def _checked_losses(record: Record) -> dict[str, float]:
    losses = {key: finite_or_infinity(value) for key, value in record.items() if key.startswith("loss/")}
    return {key: value for key, value in losses.items() if f"may_increase/{key.removeprefix('loss/')}" not in record}


def _times(ratio: float) -> str:
    return f"{f'{ratio:.2g}' if ratio < 10 else f'{ratio:,.0f}' if ratio < 1e6 else f'{ratio:.0e}'} times"
