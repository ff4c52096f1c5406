"""What the search before the grid of an ablation found: ranks of its candidates, and their table."""

from collections.abc import Mapping, Sequence

import numpy as np

from codec.evaluation import Metric, describe
from codec.evaluation.report.records import UNKNOWN
from scripts.ablation.report.runs import Run
from scripts.ablation.report.tables import Entry, Row, Table

__all__ = ["mean_ranks", "search_table"]


def mean_ranks(runs: Sequence[Run], scores: Sequence[str] | None, metrics: Mapping[str, Metric]) -> np.ndarray:
    """The rank of each run among `runs`, averaged over the scores: 1 is best, and ties share a rank.

    Ranks need no common unit, so DistillMOS, decibels and distances can be put together. A failed run is last.

    Args:
        scores: GROUP/METRIC; None for all that have a better direction.
        metrics: Directions of the metrics by name.

    Shape: [N].

    Raises:
        ValueError: No run has one of `scores`.
    """
    measured = list(dict.fromkeys(score for run in runs for score in run.scores))
    signs = {score: describe(score.rpartition("/")[2], metrics).sign for score in scores or measured}
    if missing := [score for score in signs if scores and score not in measured and measured]:
        raise ValueError(f"search.scores: {missing[0]} was not measured, expected one of {', '.join(measured)}")
    used = [score for score, sign in signs.items() if sign and score in measured]
    costs = [[-signs[score] * run.score(score) for run in runs] for score in used]
    if not costs:
        return np.ones(len(runs))
    table = np.nan_to_num(np.array(costs), nan=np.inf)
    better, tied = (table[:, None, :] < table[:, :, None]), (table[:, None, :] == table[:, :, None])
    return np.asarray((better.sum(2) + (tied.sum(2) + 1) / 2).mean(axis=0))


def search_table(runs: Sequence[Run], scores: Sequence[str] | None, metrics: Mapping[str, Metric]) -> Table | None:
    """A row per strategy with the mean rank of every candidate; None without a search."""
    candidates = list(dict.fromkeys(str(run.override) for run in runs))
    rows = []
    for strategy in sorted({run.strategy for run in runs}):
        own = {str(run.override): run for run in runs if run.strategy == strategy}
        ranks = dict(zip(own, mean_ranks(list(own.values()), scores, metrics), strict=True))
        entries = []
        for candidate in candidates:
            rank, best = ranks.get(candidate, np.nan), candidate in ranks and ranks[candidate] == min(ranks.values())
            text = UNKNOWN if candidate not in own else "failed" if own[candidate].failure else f"{rank:.2f}"
            entries.append(Entry(text, rank, mark="best" if best and len(ranks) == len(candidates) else ""))
        rows.append(Row(strategy, "", entries))
    counted = f"{len(scores)} score{'s' if len(scores) > 1 else ''}" if scores else "all scores"
    caption = f"Mean rank over {counted}; the best candidate is used above, the first of equally good ones"
    return Table(caption, ["strategy", *candidates], [rows]) if rows else None
