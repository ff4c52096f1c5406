"""Worker processes that end with their parent, and stop at once when it is interrupted."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import torch

__all__ = ["worker_processes"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# Of this process, if it is a worker. The function is made at the first item, so that its errors are those of the item.
_make_function: Callable[[], Callable[[Any], Any]]
_function: Callable[[Any], Any] | None = None


@contextmanager
def worker_processes(
    make_function: Callable[[], Callable[[_Item], _Result]], jobs: int, threads: int = 1
) -> Iterator[Callable[[_Item], "Future[_Result]"]]:
    """Yields a function that has an item computed in one of the processes.

    If the block raises, the processes are terminated; what they compute unwinds and removes its unfinished files. A
    result raises `BrokenProcessPool` if a process was killed, for example because memory ran out.

    Args:
        make_function: Makes the function in each process. It and the items must be picklable.
        jobs: Number of processes.
        threads: Threads of each process.
    """
    before = set(multiprocessing.active_children())
    # Not `fork`: a copy of a process with running threads may hang.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    executor = ProcessPoolExecutor(jobs, context, initializer=_start, initargs=(make_function, threads))
    # The first submission starts all processes. In a thread, because Ctrl-C must not interrupt the start of one.
    starter = threading.Thread(target=executor.submit, args=(os.getpid,))
    starter.start()
    try:
        starter.join()
        yield lambda item: executor.submit(_call, item)
    except BaseException:
        starter.join()
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start(make_function: Callable[[], Callable[[Any], Any]], threads: int) -> None:
    """Prepares a worker."""
    global _make_function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
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
