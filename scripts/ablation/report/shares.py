"""The table of the losses' shares of the gradient: what a strategy makes of the loss weights."""

from collections.abc import Sequence

import numpy as np

from codec.evaluation.report.records import format_fixed, keys_with_prefix, read_metrics
from scripts.ablation.report.runs import Condition, Run
from scripts.ablation.report.tables import Entry, Row, Table

__all__ = ["mean_shares", "share_table"]


def mean_shares(runs: Sequence[Run]) -> dict[str, float]:
    """Loss -> its share of the sum of the weighted gradient norms, mean over the logged steps of the runs.

    Empty if no run has measured its gradients.
    """
    records = [record for run in runs for record in read_metrics(run.folder / "metrics.jsonl")[0]]
    measured = {
        key.removeprefix("share/"): [record[key] for record in records if record.get(key) is not None]
        for key in keys_with_prefix(records, "share/")
    }
    return {loss: float(np.mean(values)) for loss, values in measured.items() if values}


def share_table(caption: str, conditions: Sequence[Condition]) -> Table | None:
    """A row per condition with the share of each loss in percent; None if no run has measured its gradients."""
    measured = {condition.strategy: mean_shares(condition.finished) for condition in conditions}
    losses = list(dict.fromkeys(loss for shares in measured.values() for loss in shares))
    rows = []
    for strategy, shares in measured.items():
        percent = [100 * shares.get(loss, np.nan) for loss in losses]
        rows.append(Row(strategy, "", [Entry(format_fixed(value, 0), value) for value in percent]))
    return Table(caption, ["strategy", *(f"{loss}, %" for loss in losses)], [rows]) if losses else None
