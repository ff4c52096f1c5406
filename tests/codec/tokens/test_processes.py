"""A function on many items in several processes."""

import math
import signal
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from codec.tokens import TokensError
from codec.tokens.processes import map_in_order

# Each makes a function of the standard library, because other processes cannot import this file.
SQUARE_ROOT = partial(partial, math.sqrt)
KILL = partial(partial, signal.raise_signal)


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_are_in_order_and_items_are_read_as_they_are_needed(jobs: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 50:
            taken += 1
            yield taken

    for number, result in enumerate(map_in_order(SQUARE_ROOT, items(), jobs), 1):
        assert result == math.sqrt(number)
        assert taken <= number + 4 * jobs


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_of_the_function(jobs: int) -> None:
    results = map_in_order(SQUARE_ROOT, iter([4, -1, 9]), jobs)
    assert next(results) == 2
    with pytest.raises(ValueError, match="math"):
        next(results)


def test_one_job_computes_on_one_thread() -> None:
    torch.set_num_threads(2)
    try:
        assert list(map_in_order(lambda: lambda item: torch.get_num_threads(), iter("ab"), 1)) == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_an_error_while_the_function_is_made() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(map_in_order(partial(int, "no number"), iter([1]), 2))  # type: ignore[arg-type]


def test_a_process_that_is_killed() -> None:
    with pytest.raises(TokensError, match="fewer jobs"):
        list(map_in_order(KILL, iter([int(signal.SIGKILL)]), 2))
