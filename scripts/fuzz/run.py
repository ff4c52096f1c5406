"""Feeds the decoder mutated files. It must decode them or refuse them with a ValueError, soon and in little memory.

python -m scripts.fuzz.run [--cases N] [--seed N] [--output FOLDER]

Prints what came of the cases, and for the first that went wrong a file that shows it. Exit status 1 if any did.
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
from scripts.fuzz.subjects import Subject, subjects

__all__ = ["fuzz", "main"]

_SECONDS = 5.0  # of one case at most, by the process's own clock: a busy machine is no offence
_FLOOR = 8 << 20  # bytes that the allocator may take on its own account
_SHOWN = 5  # offenders kept


class Offence(NamedTuple):
    subject: str
    case: int
    what: str
    path: Path


class Report(NamedTuple):
    outcomes: Counter[str]
    offences: list[Offence]
    slowest_seconds: float
    most_bytes: int  # by which the process grew in one case
    limit_bytes: int


class Hang(BaseException):
    """Not an Exception, so that nothing on the way takes it for bad input."""


def fuzz(tested: Sequence[Subject], cases: Iterator[int] | Sequence[int], seed: int, output: Path) -> Report:
    """Runs the cases of these numbers, each of them a function of number and seed."""
    limit = 2 * max(_FLOOR, *(_growth(s, 0, data)[1] for s in tested for data in s.files))
    outcomes: Counter[str] = Counter()
    offences: list[Offence] = []
    slowest, most = 0.0, 0
    for case in cases:
        drawn = random.Random(f"{seed} {case}")
        subject = drawn.choice(tested)
        data = mutate(drawn, subject.files)
        begun = time.process_time()
        outcome, grown = _growth(subject, case, data)
        slowest, most = max(slowest, time.process_time() - begun), max(most, grown)
        if grown > limit:
            outcome = f"grew by {grown >> 20} MiB, valid files by {limit >> 21} at most"
        clean = outcome in ("decoded", "refused")
        outcomes[outcome if clean else "went wrong"] += 1
        if not clean and len(offences) < _SHOWN:
            output.mkdir(parents=True, exist_ok=True)
            path = output / f"{seed}_{case}.ecdc"
            path.write_bytes(data)
            offences.append(Offence(subject.name, case, outcome, path))
    return Report(outcomes, offences, slowest, most, limit)


def _growth(subject: Subject, case: int, data: bytes) -> tuple[str, int]:
    """What came of a case, and how many bytes the process grew meanwhile."""
    _forget_peak()
    before = _memory("VmRSS")
    try:
        with _time_limit():
            subject.decode(random.Random(case), data)
        outcome = "decoded"
    except BitstreamError as error:
        outcome = "refused" if str(error) and "\n" not in str(error) else f"refused with {str(error)!r}"
    except ValueError as error:
        outcome = "refused" if type(error) is ValueError else f"{type(error).__name__}: {error}"
    except Hang:
        outcome = f"not done after {_SECONDS:g} s"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    return outcome, max(0, _memory("VmHWM") - before)


@contextmanager
def _time_limit() -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise Hang

    previous = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def _forget_peak() -> None:
    """Linux then counts the peak of this process from what it has now."""
    Path("/proc/self/clear_refs").write_text("5")


def _memory(name: str) -> int:
    """Bytes resident now (VmRSS) or at most so far (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts.fuzz.run", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/fuzz"), help="for files that show what went wrong")
    options = parser.parse_args(arguments)
    begun = time.perf_counter()
    report = fuzz(subjects(), track(range(options.cases), "fuzzing"), options.seed, options.output)  # type: ignore[arg-type]
    done = ", ".join(f"{count} {outcome}" for outcome, count in sorted(report.outcomes.items()))
    print(f"{options.cases} cases in {time.perf_counter() - begun:.0f} s: {done}")
    print(
        f"slowest {report.slowest_seconds:.2f} s; most memory {report.most_bytes / 2**20:.1f} MiB, "
        f"allowed {report.limit_bytes / 2**20:.1f}"
    )
    for offence in report.offences:
        print(f"{offence.subject}, case {offence.case}: {offence.what}: {offence.path}")
    return 1 if report.outcomes["went wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
