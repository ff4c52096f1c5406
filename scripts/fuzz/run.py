"""Decodes mutated files. Each must be decoded or refused with a ValueError, quickly and with little memory.

python -m scripts.fuzz.run [--cases N] [--seed N] [--output FOLDER]

Prints the outcomes and saves the files of the first failures. The exit status is 1 if a case failed.
"""

import argparse
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import track

from codec.bitstream import BitstreamError
from scripts.fuzz.mutations import mutate
from scripts.fuzz.targets import Target, targets

__all__ = ["fuzz", "main"]

_SECONDS = 5.0  # limit per case in CPU time, so a loaded machine does not cause failures
_FLOOR = 8 << 20  # bytes that the allocator may need in any case
_MAX_SAVED = 5  # files of failed cases


class Failure(NamedTuple):
    target: str
    case: int
    reason: str
    path: Path


class Report(NamedTuple):
    outcomes: Counter[str]
    failures: list[Failure]
    slowest_seconds: float
    peak_bytes: int  # largest growth of the process in one case
    limit_bytes: int


class Hang(BaseException):
    """The time limit was exceeded. Not an Exception, so that no handler in the decoder catches it."""


def fuzz(tested: Sequence[Target], cases: Iterator[int] | Sequence[int], seed: int, output: Path) -> Report:
    """Runs the cases with these numbers. A case depends only on its number and the seed."""
    limit = 2 * max(_FLOOR, *(_growth(s, 0, data)[1] for s in tested for data in s.files))
    outcomes: Counter[str] = Counter()
    failures: list[Failure] = []
    slowest, peak = 0.0, 0
    for case in cases:
        rng = random.Random(f"{seed} {case}")
        target = rng.choice(tested)
        data = mutate(rng, target.files)
        started = time.process_time()
        outcome, grown = _growth(target, case, data)
        slowest, peak = max(slowest, time.process_time() - started), max(peak, grown)
        if grown > limit:
            outcome = f"grew by {grown >> 20} MiB; valid files need at most {limit >> 21} MiB"
        clean = outcome in ("decoded", "refused")
        outcomes[outcome if clean else "failed"] += 1
        if not clean and len(failures) < _MAX_SAVED:
            output.mkdir(parents=True, exist_ok=True)
            path = output / f"{seed}_{case}.ecdc"
            path.write_bytes(data)
            failures.append(Failure(target.name, case, outcome, path))
    return Report(outcomes, failures, slowest, peak, limit)


def _growth(target: Target, case: int, data: bytes) -> tuple[str, int]:
    """Outcome of a case, and the growth of the process in bytes."""
    _reset_peak()
    before = _memory("VmRSS")
    try:
        with _time_limit():
            target.decode(random.Random(case), data)
        outcome = "decoded"
    except BitstreamError as error:
        outcome = "refused" if str(error) and "\n" not in str(error) else f"refused with {str(error)!r}"
    except ValueError as error:
        outcome = "refused" if type(error) is ValueError else f"{type(error).__name__}: {error}"
    except Hang:
        outcome = f"not finished after {_SECONDS:g} s"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    return outcome, max(0, _memory("VmHWM") - before)


@contextmanager
def _time_limit() -> Iterator[None]:
    def on_timer(*_: Any) -> None:
        raise Hang

    previous = signal.signal(signal.SIGPROF, on_timer)
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def _reset_peak() -> None:
    """Resets the kernel's high-water mark of this process (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def _memory(name: str) -> int:
    """Resident memory in bytes: now (VmRSS) or its peak (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(prog="scripts.fuzz.run", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/fuzz"), help="folder for the files of failed cases")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    report = fuzz(targets(), track(range(options.cases), "fuzzing"), options.seed, options.output)  # type: ignore[arg-type]
    done = ", ".join(f"{count} {outcome}" for outcome, count in sorted(report.outcomes.items()))
    print(f"{options.cases} cases in {time.perf_counter() - started:.0f} s: {done}")
    print(
        f"slowest case {report.slowest_seconds:.2f} s; peak memory {report.peak_bytes / 2**20:.1f} MiB, "
        f"limit {report.limit_bytes / 2**20:.1f}"
    )
    for failure in report.failures:
        print(f"{failure.target}, case {failure.case}: {failure.reason}: {failure.path}")
    return 1 if report.outcomes["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
