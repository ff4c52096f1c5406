"""Measures how long training steps wait for audio from many small tar archives on a slow disk.

python -m scripts.bench.shards [--shards N] [--files N] [--seconds S] [--latency-ms MS] [--megabytes-per-second MB]
    [--batch N] [--step-seconds S] [--steps N] [--workers N ...] [--json FILE]

The disk is simulated: all readers together make one access at a time. It takes the latency and the time of its bytes.
Opening an archive is an access, too. A step takes a batch of segments of 1 s and then sleeps, as a process does whose
GPU computes. The share of the time in which it waits for the batch is printed for each number of workers.
"""

import argparse
import fcntl
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from data import Segment, TarDataset, stream_batches
from scripts.bench.data import write_corpus
from scripts.bench.machine import describe_machine

__all__ = ["SlowDisk", "SlowShards", "Waiting", "main", "measure", "write_shards"]

_RATE = 24_000  # Hz
_DISTINCT = 8  # archives with audio of their own; the others are links to them
_READ_AHEAD = 1 << 17  # bytes of an access, as Linux reads files


class SlowDisk(NamedTuple):
    """A disk with one head. Every process that uses it has a copy of this description.

    Attributes:
        lock: A file that a process locks during its access.
        latency_seconds: Of an access.
        bytes_per_second: Of the bytes after it.
    """

    lock: str
    latency_seconds: float
    bytes_per_second: float

    def access(self, size: int) -> None:
        """Waits as long as an access of `size` bytes takes, after the accesses of other processes."""
        with open(self.lock, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            time.sleep(self.latency_seconds + size / self.bytes_per_second)


class _SlowFile(io.FileIO):
    def __init__(self, path: str, disk: SlowDisk) -> None:
        super().__init__(path)
        self._disk = disk

    def readinto(self, buffer: Any) -> int:
        size = super().readinto(buffer)
        if size:
            self._disk.access(size)
        return size


class SlowShards:
    """A `TarDataset` whose archives are on a slow disk, as an `IterableTrainingDataset`."""

    def __init__(self, dataset: TarDataset, disk: SlowDisk) -> None:
        self.dataset, self.disk = dataset, disk
        self.sample_rate, self.segment_samples = dataset.sample_rate, dataset.segment_samples

    def shard(self, num_shards: int, index: int) -> "SlowShards":
        """As in `IterableTrainingDataset`."""
        return SlowShards(self.dataset.shard(num_shards, index), self.disk)

    def __iter__(self) -> Iterator[Segment]:
        """Shape: audio [C, T] each."""
        disk = self.disk

        class SlowFiles(LocalFileSystem):  # type: ignore[misc]  # fsspec has no annotations
            protocol = "slow"

            def _open(self, path: str, *_: Any, **__: Any) -> io.BufferedReader:
                disk.access(0)
                return io.BufferedReader(_SlowFile(path, disk), _READ_AHEAD)

        fsspec.register_implementation("slow", SlowFiles, clobber=True)  # in the process that reads
        return iter(self.dataset)

    def state_dict(self) -> dict[str, Any]:
        """As in `IterableTrainingDataset`."""
        return self.dataset.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As in `IterableTrainingDataset`."""
        self.dataset.load_state_dict(state)


class Waiting(NamedTuple):
    """Steps that wait for their batches."""

    steps: int
    waited_seconds: float
    longest_seconds: float
    total_seconds: float

    @property
    def share(self) -> float:
        """Of the time of all steps."""
        return self.waited_seconds / self.total_seconds


def write_shards(folder: Path, shards: int, files: int, seconds: float) -> str:
    """Archives of FLAC files, mostly links to a few. Returns their address on the slow disk."""
    distinct = min(_DISTINCT, shards)
    manifest = write_corpus(folder / "audio", "flac", _RATE, distinct * files, seconds)
    paths = [Path(manifest.root) / entry.path for entry in manifest.entries]
    for number in range(shards):
        target = folder / f"{number:05d}.tar"
        if number >= distinct:
            os.link(folder / f"{number % distinct:05d}.tar", target)
            continue
        with tarfile.open(target, "w") as tar:
            for each in paths[number * files : (number + 1) * files]:
                tar.add(each, each.name)
    return f"slow://{folder}/{{00000..{shards - 1:05d}}}.tar"


def measure(
    address: str, disk: SlowDisk, num_workers: int, batch_size: int, step_seconds: float, steps: int
) -> Waiting:
    """Time that steps of `step_seconds` wait for their batches. The start of the workers is not measured."""
    dataset = SlowShards(TarDataset(address, _RATE, 1, 1.0), disk)
    batches = stream_batches(dataset, batch_size, num_workers, [None] * max(1, num_workers))
    next(batches)
    waits, begun = [], time.perf_counter()
    for _ in range(steps):
        time.sleep(step_seconds)
        asked = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - asked)
    return Waiting(steps, sum(waits), max(waits), time.perf_counter() - begun)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="scripts.bench.shards", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--shards", type=int, default=1000, help="archives (%(default)s)")
    parser.add_argument("--files", type=int, default=4, help="FLAC files in each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of a file (%(default)g)")
    parser.add_argument("--latency-ms", type=float, default=10.0, help="latency of an access (%(default)g)")
    parser.add_argument("--megabytes-per-second", type=float, default=50.0, help="rate of the disk (%(default)g)")
    parser.add_argument("--batch", type=int, default=16, help="segments of 1 s (%(default)s)")
    parser.add_argument("--step-seconds", type=float, default=0.5, help="computation of a step (%(default)g)")
    parser.add_argument("--steps", type=int, default=60, help="steps of each measurement (%(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4], help="data.num_workers (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the results as JSON here")
    options = parser.parse_args(arguments)
    print(describe_machine(), flush=True)
    results: dict[int, Waiting] = {}
    with tempfile.TemporaryDirectory() as folder:
        disk = SlowDisk(f"{folder}/lock", options.latency_ms / 1e3, options.megabytes_per_second * 1e6)
        address = write_shards(Path(folder), options.shards, options.files, options.seconds)
        print(f"{options.shards} archives of {options.files} files of {options.seconds:g} s")
        print(f"a disk with {options.latency_ms:g} ms and {options.megabytes_per_second:g} MB/s")
        print(f"steps of {options.batch} x 1 s that take {options.step_seconds:g} s")
        for workers in options.workers:
            found = measure(address, disk, workers, options.batch, options.step_seconds, options.steps)
            results[workers] = found
            waiting = f"{found.share:6.1%} of the time, at most {found.longest_seconds:.2f} s"
            print(f"  {workers} workers: steps wait {waiting}", flush=True)
    if options.json:
        about = {name: value for name, value in vars(options).items() if name != "json"}
        rows = {str(workers): found._asdict() for workers, found in results.items()}
        figures = {"machine": describe_machine(), "settings": about, "workers": rows}
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
