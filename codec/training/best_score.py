"""The score that decides which checkpoint is the best one."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from codec.evaluation import Metric, select_metrics

__all__ = ["BestScore"]


@dataclass(frozen=True)
class BestScore:
    """A metric with a direction, in one group of clips or in all groups that have it.

    Attributes:
        metric: The metric.
        group: The group; None takes the mean over the groups, in which each counts the same.
    """

    metric: Metric
    group: str | None = None

    @classmethod
    def parse(cls, name: str) -> "BestScore":
        """From METRIC or GROUP/METRIC, where METRIC is a name or an import path as in `select_metrics`.

        Raises:
            ValueError: There is no such metric, or neither direction of it is better.
        """
        group, _, chosen = name.rpartition("/")
        (metric,) = select_metrics([chosen]).values()
        if metric.higher_is_better is None:
            raise ValueError(f"{metric.name} has no direction: choose a metric of which higher or lower is better")
        return cls(metric, group or None)

    def check_groups(self, groups: Collection[str], speech: Collection[str]) -> None:
        """Checks that the group exists and has this metric.

        Args:
            groups: Groups of the held-out clips.
            speech: Those with speech.

        Raises:
            ValueError: Names the groups to choose from.
        """
        suitable = speech if self.metric.domain == "speech" else groups
        if self.group is not None and self.group not in suitable:
            raise ValueError(
                f"there is no score {self.group}/{self.metric.name}; it is measured in {', '.join(sorted(suitable))}"
            )

    def cost(self, scores: Mapping[str, float]) -> float | None:
        """A number that is lower for a better checkpoint; None where the score is undefined.

        Args:
            scores: GROUP/METRIC -> score.
        """
        found = [
            value
            for group, _, name, value in ((*key.rpartition("/"), value) for key, value in scores.items())
            if name == self.metric.name and self.group in (None, group) and math.isfinite(value)
        ]
        return -self.metric.sign * sum(found) / len(found) if found else None
