"""Runs an operation on many files: in this process or in several, with a bar, a report and a list of what failed."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from codec.audio import describe_skipped, error_text, readable
from codec.coding import CodingResult
from codec.commands.messages import print_notes
from codec.commands.options.files import MAX_JOBS
from codec.commands.plan import Plan, Task
from codec.commands.standard_streams import STANDARD_STREAM, display_name
from codec.workers import worker_processes

__all__ = ["MakeOperation", "Operation", "Progress", "process_files"]

Progress = Callable[[float], None]  # called with the fraction of a file that is done
Operation = Callable[[Task, Progress], CodingResult]
MakeOperation = Callable[[argparse.Namespace], Operation]
_BAR_AFTER_SECONDS = 1.0


class _Outcome(NamedTuple):
    """What became of a file."""

    result: CodingResult | None
    error: str  # empty if there is a result


def process_files(plan: Plan, make_operation: MakeOperation, options: argparse.Namespace) -> int:
    """Applies an operation to the files of a plan. A file that fails is reported at the end, and the others are done.

    Args:
        plan: From `codec.commands.plan.plan`.
        make_operation: Makes the operation in each process. It raises `ValueError` if the options are invalid.
        options: Has `jobs` and `quiet`, and what `make_operation` needs.

    Returns:
        The exit status.

    Raises:
        ValueError: An option is invalid, or a single file failed.
        OSError: A single file cannot be read or written.
    """
    if not 1 <= options.jobs <= MAX_JOBS:
        raise ValueError(f"--jobs must be 1 to {MAX_JOBS}, got {options.jobs}")
    operation = make_operation(options)
    if len(plan.tasks) == 1 and not plan.skipped:
        with _bar(options.quiet, display_name(plan.tasks[0].source)) as progress:
            result = operation(plan.tasks[0], progress)
        _report(plan.tasks[0], result, options.quiet)
        return 0
    for line in describe_skipped(plan.skipped):
        print(f"note: skipped {line}", file=sys.stderr)
    failed: list[str] = []
    seconds, start = 0.0, time.perf_counter()
    jobs = min(options.jobs, len(plan.tasks))
    outcomes = (
        _in_this_process(operation, plan.tasks) if jobs == 1 else _in_processes(make_operation, options, plan.tasks)
    )
    try:
        with _bar(options.quiet, "files", after_seconds=0.0) as progress:
            for count, (task, outcome) in enumerate(outcomes, 1):
                if outcome.result is None:
                    failed.append(outcome.error)
                else:
                    seconds += outcome.result.seconds
                    _report(task, outcome.result, options.quiet)
                progress(count / len(plan.tasks))
    finally:
        for line in failed:
            print(f"codec: {line}", file=sys.stderr)
    if not options.quiet:
        done = f"{len(plan.tasks) - len(failed)} of {len(plan.tasks)} files done"
        print(f"{done}, {seconds:.2f} s of audio, {_speed(seconds, time.perf_counter() - start)}")
    return 1 if failed else 0


def _in_this_process(operation: Operation, tasks: list[Task]) -> Iterator[tuple[Task, _Outcome]]:
    for task in tasks:
        yield task, _outcome(operation, task)


def _in_processes(
    make_operation: MakeOperation, options: argparse.Namespace, tasks: list[Task]
) -> Iterator[tuple[Task, _Outcome]]:
    """Each process has a model of its own and a share of the processors."""
    jobs = min(options.jobs, len(tasks))
    make = partial(_make_worker, make_operation, options)
    with worker_processes(make, jobs, threads=max(1, torch.get_num_threads() // jobs)) as submit:
        futures = {submit(task): task for task in tasks}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                reason = "not done, because a process ended, probably for lack of memory: try fewer --jobs"
                yield futures[future], _Outcome(None, f"{readable(futures[future].source)}: {reason}")


def _make_worker(make_operation: MakeOperation, options: argparse.Namespace) -> Callable[[Task], _Outcome]:
    options.quiet, options.verbose = True, False
    return partial(_outcome, make_operation(options))


def _outcome(operation: Operation, task: Task) -> _Outcome:
    try:
        return _Outcome(operation(task, lambda fraction: None), "")
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        text, name = error_text(error), readable(display_name(task.source))
        return _Outcome(None, text if name in text else f"{name}: {text}")


@contextmanager
def _bar(quiet: bool, title: str, after_seconds: float = _BAR_AFTER_SECONDS) -> Iterator[Progress]:
    """A bar on a terminal, once the work has taken a while."""
    if quiet or not sys.stderr.isatty():
        yield lambda fraction: None
        return
    from rich.console import Console  # imported here, because only terminals need it
    from rich.markup import escape
    from rich.progress import Progress as Bar

    start = time.perf_counter()
    with Bar(console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        row = bar.add_task(escape(readable(title)), total=1.0, visible=after_seconds == 0.0)

        def progress(fraction: float) -> None:
            bar.update(row, completed=fraction, visible=time.perf_counter() - start >= after_seconds)

        yield progress


def _report(task: Task, result: CodingResult, quiet: bool) -> None:
    if not quiet:
        details = "".join(f"; {detail}" for detail in result.details)
        size = f"{result.kbps:.2f} kbit/s ({result.encoded_bytes} bytes)"
        speed = _speed(result.seconds, result.elapsed_seconds)
        is_piped = task.target in (STANDARD_STREAM, Path("/dev/stdout"))
        print(f"{readable(task.target)}: {result.seconds:.2f} s, {size}, {speed}{details}",
              file=sys.stderr if is_piped else sys.stdout)  # fmt: skip
    print_notes(display_name(task.source), result.notes)


def _speed(seconds: float, elapsed_seconds: float) -> str:
    speed = seconds / max(elapsed_seconds, 1e-9)
    return f"{speed:.0f}x real time" if speed >= 10 else f"{speed:.1f}x real time"
