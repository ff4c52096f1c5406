"""Advice on a run from its log: what went wrong, how the losses share the gradient, and which setting to change."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from codec.evaluation.report.diagnostics import Diagnostics

__all__ = ["advice", "loss_advice", "problems"]

Record = Mapping[str, Any]

# Two gradients of equal norm at this cosine shorten each other by a tenth; a cosine nearer to 0 is hardly a conflict.
_CONFLICT = -0.1
# A condition is persistent if it holds in this fraction of at least this many measurements.
_PERSISTENT, _FEWEST = 0.5, 5
# Without a loss below the first fraction, the gradient would turn by half a degree. Above the second, a loss dominates.
_NEGLIGIBLE, _DOMINANT = 0.01, 0.9
# Ratio of the norms of the commitment gradient and the balanced gradient. At a ratio of 10 the shorter gradient turns
# the sum by less than 6 degrees, at 100 by half a degree. The lower bound is wider, because the commitment gradient is
# short wherever the latents are near their codes.
_COMMITMENT = (0.01, 10.0)
# Two independent noises score 1 in clips of 3 s; a buzz is audible above this. See `codec.evaluation.ripple_db`.
_RIPPLE_DB = 5.0
# Growth of a weight from each quarter of the run to the next. Weights that grow in proportion to the step stay below.
_GROWTH = 2.0
# A weight is constant if it changes by less than the first factor in the last quarter. It stands at a limit if it has
# changed by more than the second factor before, and the norm of its gradient still changes by more than the third.
# The gradient norm of L1 may not change, because that gradient is a sign.
_CONSTANT, _CHANGED, _NORM_CHANGED = 1 + 1e-6, 2.0, 1.01


def advice(records: Sequence[Record]) -> list[str]:
    """Everything that the log of a run suggests: one entry for each observation, with the setting to change.

    Args:
        records: The records of a metrics.jsonl.
    """
    return problems(records) + loss_advice([record for record in records if record["split"] == "train"])


def problems(records: Sequence[Record]) -> list[str]:
    """What went wrong: diagnostics that are active at the end, rollbacks, skipped steps, and ripple in the treble."""
    diagnostics = Diagnostics()
    for record in records:
        diagnostics.update(record)
    train = [record for record in records if record["split"] == "train"]
    validation = [record for record in records if record["split"] == "validation"]
    found = [*diagnostics.active.values(), *_rollback_advice(train), *_skipped_step_advice(train)]
    return found + _ripple_advice(train, validation)


def loss_advice(train: Sequence[Record]) -> list[str]:
    """How the losses work together.

    It covers losses that were never active, weights that grow without bound or stand at a limit, pairs of losses that
    conflict, losses with a negligible, dominant or opposed gradient, and the size of the commitment gradient.

    Args:
        train: Records of the split "train". Those of monitoring steps hold measurements of the gradients.
    """
    of_weights = [entry for name in _names(train, "weight/") for entry in _weight_advice(train, name)]
    return of_weights + _gradient_advice(train) + _commitment_advice(train)


def _rollback_advice(train: Sequence[Record]) -> list[str]:
    rollbacks = _column(train, "rollbacks")
    if not len(rollbacks) or not rollbacks[-1]:
        return []
    lr = train[-1].get("lr")
    now = f"; the learning rate is now {lr:.2g}" if isinstance(lr, float) else ""
    return [
        f"The run diverged and was rolled back to an earlier checkpoint {rollbacks[-1]:.0f} "
        f"time{'s' if rollbacks[-1] > 1 else ''}{now}. See log.txt for the steps, and lower optimizer.codec.lr."
    ]


def _skipped_step_advice(train: Sequence[Record]) -> list[str]:
    skipped = _column(train, "skipped_steps")
    if not len(skipped) or not skipped[-1]:
        return []
    steps = train[-1]["step"]
    return [
        f"{skipped[-1]:,.0f} of {steps:,} steps ({_percent(skipped[-1] / max(steps, 1))}) were skipped because a value "
        "was not finite. See log.txt for the losses. Lower optimizer.codec.lr, or set trainer.gradient_clip_norm."
    ]


def _ripple_advice(train: Sequence[Record], validation: Sequence[Record]) -> list[str]:
    latest = validation[-1] if validation else {}
    ripple = {key.rpartition("/")[0]: value for key, value in latest.items() if key.endswith("/ripple_db")}
    loud = {group: value for group, value in ripple.items() if isinstance(value, int | float) and value > _RIPPLE_DB}
    if not train or not loud:
        return []
    found = ", ".join(f"{value:.1f} dB in {group}" for group, value in loud.items())
    if any("loss/tonality" in record for record in train):
        changes = ["Raise losses.weights.tonality"]
    else:
        changes = ["Add the tonality loss (+losses.terms.tonality._target_=losses.Tonality +losses.weights.tonality=1)"]
    if any(key.startswith("discriminator/") for record in train for key in record):
        changes += ["set discriminator.compression=0.3", "lower adversarial.start_fraction"]
    return [
        f"The decoder turns noise in the treble into tones, which sound like a buzz: the ripple of the held-out clips "
        f"is {found}, where two independent noises score 1. The mel distance does not show it. "
        f"{', or '.join(changes)}."
    ]


def _weight_advice(train: Sequence[Record], name: str) -> list[str]:
    weights = _column(train, f"weight/{name}")
    active = weights[weights > 0]
    if len(weights) and not weights.any():
        if any(f"loss/{name}" in record for record in train):
            reason = f"its gradient or losses.weights.{name} is 0"
        else:
            reason = "it was not computed; lower adversarial.start_fraction or raise trainer.max_steps"
        return [f"{name} was never active in {len(weights)} records: {reason}."]
    if len(active) < 4 * _FEWEST:
        return []
    *_, last = quarters = np.array_split(active, 4)
    medians = np.array([np.median(quarter) for quarter in quarters])
    course = f"({', '.join(f'{median:.3g}' for median in medians)} in the quarters of the run)"
    if (medians[1:] >= _GROWTH * medians[:-1]).all():
        return [
            f"The weight of {name} grows without bound {course}. Either its gradient vanishes: then set "
            f"losses.weights.{name}=0. Or the balancing strategy diverges: then choose another balancer."
        ]
    norms = _column(train[-(len(train) // 4) :], f"norm/{name}")
    at_limit = last.max() <= _CONSTANT * last.min() and len(norms) and norms.max() >= _NORM_CHANGED * norms.min()
    if at_limit and medians.max() >= _CHANGED * medians.min():
        return [
            f"The weight of {name} is constant at the end {course}, although the norm of its gradient changes. Unless "
            "balancer.warmup has just ended, it stands at a limit of the strategy; see the settings of balancer.scale."
        ]
    return []


def _gradient_advice(train: Sequence[Record]) -> list[str]:
    measured = [record for record in train if len(_values(record, "share/"))]
    if train and len(measured) < _FEWEST:
        return [
            f"The balance of the gradients cannot be assessed: this needs {_FEWEST} measurements, and there "
            f"{'is' if len(measured) == 1 else 'are'} {len(measured)}. Lower balancer.monitor_every."
        ]
    several = [record for record in measured if len(_values(record, "share/")) > 1]
    return _conflict_advice(several) + [
        entry for name in _names(train, "share/") for entry in _share_advice(several, name)
    ]


def _conflict_advice(measured: Sequence[Record]) -> list[str]:
    pairs = {name.replace("/", " and "): _column(measured, f"cosine/{name}") for name in _names(measured, "cosine/")}
    pairs = {pair: cosines for pair, cosines in pairs.items() if len(cosines) >= _FEWEST}
    if not pairs:
        return []
    often = {pair: float((cosines < _CONFLICT).mean()) for pair, cosines in pairs.items()}
    found = [
        f"{pair} conflict: the cosine of their gradients is below {_CONFLICT} at {_percent(often[pair])} of "
        f"{len(cosines)} measurements and {cosines.mean():.2f} on average. Choose a direction that resolves conflicts, "
        "such as balancer=upgrad or balancer=pcgrad, or lower the weight of one of them."
        for pair, cosines in pairs.items()
        if often[pair] >= _PERSISTENT
    ]
    if found:
        return found
    # The mean over a log interval may hide a conflict; `conflicts` counts negative cosines of single steps.
    negative = [record for record in measured if any(_values(record, "conflicts") > 0) or _lowest_cosine(record) < 0]
    closest = min(pairs, key=lambda pair: (-often[pair], pairs[pair].mean()))
    cosines = pairs[closest]
    if not negative:
        return [
            f"No pair of losses conflicts: no cosine is negative at {len(measured)} measurements, and the lowest mean "
            f"is {cosines.mean():.2f} ({closest}). Here pcgrad, upgrad and dualproj give the direction of the weighted "
            "sum."
        ]
    return [
        f"No pair of losses conflicts persistently. The lowest cosine is that of {closest}: below {_CONFLICT} at "
        f"{_percent(often[closest])} of {len(cosines)} measurements and {cosines.mean():.2f} on average. A cosine is "
        f"negative at {_percent(len(negative) / len(measured))} of the measurements; only there do pcgrad, upgrad and "
        "dualproj differ in direction from the weighted sum."
    ]


def _share_advice(measured: Sequence[Record], name: str) -> list[str]:
    shares, projections = _column(measured, f"share/{name}"), _column(measured, f"projection/{name}")
    if min(len(shares), len(projections)) < _FEWEST:
        return []
    share, projection = shares.mean(), projections.mean()
    numbers = (
        f"on average its gradient is {_percent(share)} of the sum of the weighted gradient norms and contributes "
        f"{_percent(projection)} of the balanced gradient"
    )
    found = []
    if share < _NEGLIGIBLE and abs(projection) < _NEGLIGIBLE:
        found.append(f"{name} has no effect: {numbers}. Raise losses.weights.{name}, or remove the loss.")
    if share > _DOMINANT:
        found.append(
            f"{name} dominates: {numbers}. Lower losses.weights.{name}, or choose balancer=encodec, whose weights are "
            "shares of the gradient."
        )
    opposed = (projections < -_NEGLIGIBLE).mean()
    if opposed >= _PERSISTENT:
        found.append(
            f"{name} is opposed by the balanced gradient at {_percent(opposed)} of {len(projections)} measurements "
            f"({_percent(projection)} of it on average), so training increases this loss. Raise losses.weights.{name}, "
            "or choose balancer=upgrad, which increases no loss."
        )
    return found


def _commitment_advice(train: Sequence[Record]) -> list[str]:
    ratios = _column(train, "commitment_ratio")
    if len(ratios) < _FEWEST:
        return []
    ratio = np.median(ratios)
    if 0 < ratio < _COMMITMENT[0]:
        return [
            f"The norm of the commitment gradient at the latent is {_percent(ratio)} of that of the balanced gradient "
            f"(median of {len(ratios)} measurements), so little keeps the latents near their codes. Raise "
            "trainer.codebooks.commitment_weight."
        ]
    if ratio > _COMMITMENT[1]:
        return [
            f"The norm of the commitment gradient at the latent is {ratio:.3g} times that of the balanced gradient "
            f"(median of {len(ratios)} measurements), so the encoder learns little from the losses. Lower "
            "trainer.codebooks.commitment_weight."
        ]
    return []


def _names(records: Sequence[Record], prefix: str) -> list[str]:
    return list(dict.fromkeys(key.removeprefix(prefix) for r in records for key in r if key.startswith(prefix)))


def _column(records: Sequence[Record], key: str) -> np.ndarray:
    """The finite values of a key, in order. Shape: -> [at most len(records)]."""
    return _finite(record.get(key) for record in records)


def _values(record: Record, prefix: str) -> np.ndarray:
    """The finite values of all keys with this prefix."""
    return _finite(value for key, value in record.items() if key.startswith(prefix))


def _finite(values: Iterable[Any]) -> np.ndarray:
    numbers = np.array([value for value in values if isinstance(value, int | float)], dtype=np.float64)
    return numbers[np.isfinite(numbers)]


def _lowest_cosine(record: Record) -> float:
    return float(_values(record, "cosine/").min(initial=1.0))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if abs(fraction) >= 0.1 else f"{100 * fraction:.2g} %"
