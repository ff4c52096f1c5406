"""MovingAverage: bias correction, absent losses, and steps between refreshes."""

import torch
from torch.testing import assert_close

from balancer.moving_average import MovingAverage
from scale_inputs import step


def test_worked_numbers() -> None:
    average = MovingAverage(3, decay=0.5)
    assert_close(average(step([1, 1]), torch.tensor([4.0, 8.0])), torch.tensor([4.0, 8.0]).double())
    # (4 / 2 + 1) / 1.5 for the first loss; the third one is new.
    found = average(step([1, 1], [0, 2]), torch.tensor([1.0, 7.0]))
    assert_close(found, torch.tensor([2.0, 7.0]).double())
    assert average.count.tolist() == [1.5, 1, 1]


def test_a_value_counts_for_all_elapsed_steps() -> None:
    once, repeated = MovingAverage(1, decay=0.9), MovingAverage(1, decay=0.9)
    for average in (once, repeated):
        average(step([1]), torch.tensor([5.0]))
    statistics = step([1])
    statistics.elapsed = 4
    for _ in range(4):
        expected = repeated(step([1]), torch.tensor([2.0]))
    assert_close(once(statistics, torch.tensor([2.0])), expected)
