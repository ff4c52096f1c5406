"""The table of the losses' shares of the gradient: what a strategy makes of the loss weights."""

from collections.abc import Sequence

import numpy as np

from codec.evaluation.report.records import format_fixed, keys_with_prefix, read_metrics
from scripts.ablation.report.runs import Condition
from scripts.ablation.report.tables import Entry, Row, Table

__all__ = ["share_table"]


def share_table(caption: str, conditions: Sequence[Condition]) -> Table | None:
    """A row per condition: the share of each loss in the sum of the weighted gradient norms, in percent.

    Means over the logged steps of all finished runs. None if no run has measured its gradients.
    """
    measured: dict[str, dict[str, list[float]]] = {}
    for condition in conditions:
        records = [record for run in condition.finished for record in read_metrics(run.folder / "metrics.jsonl")[0]]
        values = {
            key.removeprefix("share/"): [record[key] for record in records if record.get(key) is not None]
            for key in keys_with_prefix(records, "share/")
        }
        if values:
            measured[condition.strategy] = values
    losses = list(dict.fromkeys(loss for values in measured.values() for loss in values))
    rows = []
    for strategy, values in measured.items():
        means = [100 * float(np.mean(values[loss])) if values.get(loss) else np.nan for loss in losses]
        rows.append(Row(strategy, "", [Entry(format_fixed(mean, 0), mean) for mean in means]))
    return Table(caption, ["strategy", *(f"{loss}, %" for loss in losses)], [rows]) if rows else None
