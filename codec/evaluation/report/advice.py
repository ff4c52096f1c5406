"""What the log of a run says, in sentences: what is out of range, which losses conflict, which decide, which do not."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from codec.evaluation.report.diagnostics import Diagnostics

__all__ = ["advice", "loss_advice", "problems"]

Record = Mapping[str, Any]

# Two gradients of equal length at this cosine take a tenth off each other; closer to 0 it is hardly a conflict.
_CONFLICT = -0.1
# At this share of the measurements something is the rule; fewer measurements than that show no rule.
_PERSISTENT, _FEWEST = 0.5, 5
# A loss below the first could go and the gradient would turn by half a degree; above the second it decides alone.
_NIL, _DOMINANT = 0.01, 0.9
# Beyond a factor of 10 the shorter of two gradients turns their sum by less than 6 degrees, beyond 100 by half a one.
# The lower bound is wider, since a commitment that the latents already keep is a short gradient by right.
_COMMITMENT = (0.01, 10.0)
# Two noises have 1 in clips of 3 s; above this a buzz is heard. See codec.evaluation.ripple_db.
_RIPPLE_DB = 5.0
# Growth from each quarter of the run to the next; a weight that grows in proportion to the steps falls below it.
_GROWTH = 2.0
# A weight stands still if it moves by less than the first factor, and has moved before if by more than the second. It
# is held if the length of its gradient moves meanwhile by more than the third: that of L1, a sign, may well not.
_STILL, _MOVED, _FREE = 1 + 1e-6, 2.0, 1.01


def advice(records: Sequence[Record]) -> list[str]:
    """One sentence with numbers, and where there is something to change its setting, for what is found in a log.

    Args:
        records: The lines of a metrics.jsonl.
    """
    return problems(records) + loss_advice([r for r in records if r["split"] == "train"])


def problems(records: Sequence[Record]) -> list[str]:
    """What went wrong: what is out of range at the end (see `Diagnostics`), returns to earlier checkpoints, steps that
    were skipped, and treble that came out as tones."""
    diagnostics = Diagnostics()
    for record in records:
        diagnostics.update(record)
    train = [record for record in records if record["split"] == "train"]
    scores = [record for record in records if record["split"] == "validation"]
    found = [*diagnostics.active.values(), *_of_the_returns(train), *_of_the_steps(train)]
    return found + _of_the_treble(train, scores)


def loss_advice(train: Sequence[Record]) -> list[str]:
    """Losses that were never active; weights that grow without end or stop at a limit; pairs of losses that conflict,
    or that none does; losses that decide nothing, everything, or point against the result; a commitment that outweighs
    the losses or has no weight.

    Args:
        train: A measurement is a line that holds what a monitoring step found.
    """
    of_the_weights = [sentence for name in _names(train, "weight/") for sentence in _of_one_weight(train, name)]
    return of_the_weights + _of_the_gradients(train) + _of_the_commitment(train)


def _of_the_returns(train: Sequence[Record]) -> list[str]:
    returns = _column(train, "rollbacks")
    if not len(returns) or not returns[-1]:
        return []
    rate = train[-1].get("lr")
    return [
        f"The run diverged and went back to an earlier checkpoint, with lower learning rates, {returns[-1]:.0f} "
        f"time{'s' if returns[-1] > 1 else ''}{f' (the last is {rate:.2g})' if isinstance(rate, float) else ''}: "
        "log.txt says where; lower optimizer.codec.lr."
    ]


def _of_the_steps(train: Sequence[Record]) -> list[str]:
    skipped = _column(train, "skipped_steps")
    if not len(skipped) or not skipped[-1]:
        return []
    steps = train[-1]["step"]
    return [
        f"{skipped[-1]:,.0f} of {steps:,} steps ({_percent(skipped[-1] / max(steps, 1))}) were skipped as not finite: "
        "log.txt names the losses; lower optimizer.codec.lr or set trainer.gradient_clip_norm."
    ]


def _of_the_treble(train: Sequence[Record], scores: Sequence[Record]) -> list[str]:
    ripple = _column(scores[-1:], "all/ripple_db")
    if not train or not len(ripple) or ripple[-1] <= _RIPPLE_DB:
        return []
    changes = ["raise losses.weights.tonality (losses=starter has that loss)"]
    if any("loss/adversarial" in record for record in train):
        changes += ["set discriminator.compression=0.3", "lower adversarial.start_fraction"]
    return [
        f"Treble comes out as tones (a ripple of {ripple[-1]:.1f} dB over the held-out clips, where two noises have "
        f"1): the mel distance misses them, a listener hears a buzz; {', or '.join(changes)}."
    ]


def _of_one_weight(train: Sequence[Record], name: str) -> list[str]:
    weights = _column(train, f"weight/{name}")
    active = weights[weights > 0]
    if len(weights) and not weights.any():
        if any(f"loss/{name}" in record for record in train):
            reason = f"its gradient is 0, or losses.weights.{name} is"
        else:
            reason = "nor was it computed; lower adversarial.start_fraction or raise trainer.max_steps"
        return [f"{name} was never active in {len(weights)} lines of the log: {reason}."]
    if len(active) < 4 * _FEWEST:
        return []
    *_, last = quarters = np.array_split(active, 4)
    medians = np.array([np.median(quarter) for quarter in quarters])
    course = f"({', '.join(f'{median:.3g}' for median in medians)} in the quarters of the run)"
    if (medians[1:] >= _GROWTH * medians[:-1]).all():
        return [
            f"The weight of {name} grows without levelling off {course}: either its gradient vanishes, and "
            f"losses.weights.{name} might as well be 0, or the strategy diverges, and another balancer is wanted."
        ]
    norms = _column(train[-(len(train) // 4) :], f"norm/{name}")
    held = last.max() <= _STILL * last.min() and len(norms) and norms.max() >= _FREE * norms.min()
    if held and medians.max() >= _MOVED * medians.min():
        return [
            f"The weight of {name} stands still at last {course}, though the length of its gradient does not: unless "
            "balancer.warmup ended there, it sits at a limit of the strategy (see the settings of balancer.scale)."
        ]
    return []


def _of_the_gradients(train: Sequence[Record]) -> list[str]:
    names = _names(train, "share/")
    measured = [record for record in train if len(_present(record, "share/"))]
    if train and len(measured) < _FEWEST:
        return [
            f"Measurements of the gradients: {len(measured)}, too few to judge their balance; lower "
            "balancer.monitor_every."
        ]
    several = [record for record in measured if len(_present(record, "share/")) > 1]
    return _conflicts(several) + [sentence for name in names for sentence in _of_one_loss(several, name)]


def _conflicts(measured: Sequence[Record]) -> list[str]:
    pairs = {name.replace("/", " and "): _column(measured, f"cosine/{name}") for name in _names(measured, "cosine/")}
    pairs = {pair: cosines for pair, cosines in pairs.items() if len(cosines) >= _FEWEST}
    if not pairs:
        return []
    often = {pair: float((cosines < _CONFLICT).mean()) for pair, cosines in pairs.items()}
    found = [
        f"{pair} conflict: their cosine is below {_CONFLICT} at {_percent(often[pair])} of {len(cosines)} "
        f"measurements and {cosines.mean():.2f} on average; a direction that resolves conflicts, such as "
        "balancer=upgrad or balancer=pcgrad, or a lower weight of either would change the result."
        for pair, cosines in pairs.items()
        if often[pair] >= _PERSISTENT
    ]
    if found:
        return found
    # The mean over a log interval may hide a conflict; `conflicts` does not.
    negative = [record for record in measured if any(_present(record, "conflicts") > 0) or _lowest(record) < 0]
    closest = min(pairs, key=lambda pair: (-often[pair], pairs[pair].mean()))
    cosines = pairs[closest]
    if not negative:
        return [
            f"No pair of losses conflicts: at {len(measured)} measurements no cosine is negative, and the lowest mean "
            f"is {cosines.mean():.2f} ({closest}); pcgrad, upgrad and dualproj then have the direction of the weighted "
            "sum."
        ]
    return [
        f"No pair of losses conflicts persistently: {closest} come closest, with a cosine below {_CONFLICT} at "
        f"{_percent(often[closest])} of {len(cosines)} measurements and {cosines.mean():.2f} on average; pcgrad, "
        "upgrad and dualproj leave the direction of the weighted sum only where a cosine is negative, at "
        f"{_percent(len(negative) / len(measured))} of them."
    ]


def _of_one_loss(measured: Sequence[Record], name: str) -> list[str]:
    shares, projections = _column(measured, f"share/{name}"), _column(measured, f"projection/{name}")
    if min(len(shares), len(projections)) < _FEWEST:
        return []
    share, projection = shares.mean(), projections.mean()
    numbers = f"{_percent(share)} of the length of the weighted gradients and {_percent(projection)} of their result"
    found = []
    if share < _NIL and abs(projection) < _NIL:
        found.append(f"{name} has no say: {numbers} on average; raise losses.weights.{name}, or leave the loss out.")
    if share > _DOMINANT:
        found.append(
            f"{name} dominates: {numbers} on average; lower losses.weights.{name}, or choose balancer=encodec, whose "
            "weights are shares."
        )
    against = (projections < -_NIL).mean()
    if against >= _PERSISTENT:
        found.append(
            f"{name} points against the result at {_percent(against)} of {len(projections)} measurements (projection "
            f"{_percent(projection)} on average), so that the steps make it worse: raise losses.weights.{name}, or "
            "choose balancer=upgrad, which leaves no loss behind."
        )
    return found


def _of_the_commitment(train: Sequence[Record]) -> list[str]:
    ratios = _column(train, "commitment_ratio")
    if len(ratios) < _FEWEST:
        return []
    ratio = np.median(ratios)
    if 0 < ratio < _COMMITMENT[0]:
        return [
            f"At the latent the commitment gradient is {_percent(ratio)} as long as the balanced one (median of "
            f"{len(ratios)} measurements): hardly anything keeps the latents near their codes; raise "
            "trainer.codebooks.commitment_weight."
        ]
    if ratio > _COMMITMENT[1]:
        return [
            f"At the latent the commitment gradient is {ratio:.3g} times as long as the balanced one (median of "
            f"{len(ratios)} measurements): the encoder learns to stay near its codes rather than from the losses; "
            "lower trainer.codebooks.commitment_weight."
        ]
    return []


def _names(records: Sequence[Record], prefix: str) -> list[str]:
    return list(dict.fromkeys(key.removeprefix(prefix) for r in records for key in r if key.startswith(prefix)))


def _column(records: Sequence[Record], key: str) -> np.ndarray:
    """The finite values of a key, in order. Shape: -> [at most len(records)]."""
    return _finite(record.get(key) for record in records)


def _present(record: Record, prefix: str) -> np.ndarray:
    return _finite(value for key, value in record.items() if key.startswith(prefix))


def _finite(values: Iterable[Any]) -> np.ndarray:
    numbers = np.array([value for value in values if isinstance(value, int | float)], dtype=np.float64)
    return numbers[np.isfinite(numbers)]


def _lowest(record: Record) -> float:
    return float(_present(record, "cosine/").min(initial=1.0))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if abs(share) >= 0.1 else f"{100 * share:.2g} %"
