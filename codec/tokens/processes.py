"""A function on many items in several processes, with the results in order and a bounded number of them waiting."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch

from codec.tokens.card import TokensError
from codec.workers import worker_processes

__all__ = ["map_in_order"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_AHEAD = 4  # items per process that are computed or wait for an earlier result


def map_in_order(
    make_function: Callable[[], Callable[[_Item], _Result]], items: Iterable[_Item], jobs: int
) -> Iterator[_Result]:
    """Yields the results in the order of the items.

    Each process computes on one thread, so results do not depend on the number of processes.

    Args:
        make_function: Makes the function in each process. Both must be picklable if there are several processes.
        items: Read as they are needed.
        jobs: Number of processes; 1 computes in this process.

    Raises:
        TokensError: A process was killed, for example because memory ran out.
        Exception: What the function raised.
    """
    if jobs == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from map(make_function(), items)
        finally:
            torch.set_num_threads(threads)
        return
    try:
        with worker_processes(make_function, jobs) as submit:
            waiting: deque[Future[_Result]] = deque()
            for item in items:
                waiting.append(submit(item))
                if len(waiting) >= _AHEAD * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise TokensError(
            "a process of --jobs was killed, probably because memory ran out: run the command again with fewer jobs"
        ) from error
