"""A function on many items in several processes, with the results in order and a bounded number of them waiting."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NoReturn, TypeVar

import torch

from codec.tokens.card import TokensError

__all__ = ["map_in_order"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_AHEAD = 4  # items per process that are computed or wait for an earlier result
# Of this process, if it is a worker. The function is made at the first item, so that its errors are those of the item.
_make_function: Callable[[], Callable[[Any], Any]]
_function: Callable[[Any], Any] | None = None


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
    before = set(multiprocessing.active_children())
    # Not `fork`: a copy of a process with running threads may hang.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    executor = ProcessPoolExecutor(jobs, context, initializer=_start, initargs=(make_function,))
    # The first submission starts all processes. In a thread, because Ctrl-C must not interrupt the start of one.
    starter = threading.Thread(target=executor.submit, args=(os.getpid,))
    starter.start()
    try:
        starter.join()
        waiting: deque[Future[_Result]] = deque()
        for item in items:
            waiting.append(executor.submit(_call, item))
            if len(waiting) >= _AHEAD * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BaseException as error:
        starter.join()
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise TokensError(
                "a process of --jobs was killed, probably because memory ran out: run the command again with fewer jobs"
            ) from error
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start(make_function: Callable[[], Callable[[Any], Any]]) -> None:
    """Prepares a worker."""
    global _make_function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _make_function = make_function


def _stop(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)  # unwinds the function, which removes its unfinished file


def _exit_with_parent() -> None:
    """A killed parent cannot end its workers, which would wait for items forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(item: Any) -> Any:
    global _function
    try:
        if _function is None:
            _function = _make_function()
        return _function(item)
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else 1)
