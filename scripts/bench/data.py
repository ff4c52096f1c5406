"""Times reading of training audio, compared with the audio that training uses, and opening a large manifest.

python -m scripts.bench.data [--seconds S] [--batches N] [--files N] [--json FILE]

Segments of 1 s at random positions of stereo files are read as a worker of `data.num_workers` reads them: one thread,
mixed down, and resampled to 24 kHz if the file has another rate. The rate is per second of CPU time, so that a loaded
machine does not lower it. The training rates are those of the paper-size model and of `starter_seanet` on this
machine.
"""

import argparse
import itertools
import json
import math
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from codec.training.startup.malloc import keep_freed_memory
from data import Entry, Manifest, SegmentDataset, scan_folder, training_batches
from scripts.bench.machine import clock, describe_machine
from scripts.bench.step import AUDIOCRAFT, own_trainer

__all__ = ["main", "manifest_cost", "reading_rate", "write_corpus"]

_FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
_STEPS = 3
_GPU_RATE = 320  # seconds of audio per second: five steps of 64 x 1 s
_STARTER = ("experiment=starter_seanet", "data=clips", "data.num_workers=0", "name=bench")


class ManifestCost(NamedTuple):
    """Time and memory of loading a manifest."""

    seconds: float
    bytes_per_file: float


def write_corpus(folder: Path, suffix: str, rate: int, files: int, seconds: float) -> Manifest:
    """Stereo noise with roughly the spectrum of speech; white noise is not a realistic load for audio decoders."""
    folder.mkdir(parents=True)
    drawn = np.random.default_rng(0)
    for number in range(files):
        noise = drawn.normal(size=(round(seconds * rate), 2))
        walk = np.cumsum(noise - noise.mean(0), axis=0)
        walk *= 0.3 / np.abs(walk).max()
        with soundfile.SoundFile(folder / f"{number}.{suffix}", "w", rate, 2, _FORMATS[suffix]) as file:
            for second in np.array_split(walk.astype(np.float32), max(1, round(seconds))):
                file.write(second)  # libsndfile's Vorbis encoder overflows the stack if given minutes at once
    return scan_folder(folder)


def reading_rate(manifest: Manifest, batches: int, batch_size: int = 8) -> float:
    """Seconds of 24 kHz mono audio that a worker reads per second of CPU time."""
    dataset = SegmentDataset(manifest, 24_000, 1, 1.0)
    stream = training_batches(dataset, batch_size, 0, 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        next(stream)
        begun = time.process_time()
        for _ in itertools.islice(stream, batches):
            pass
        seconds = time.process_time() - begun
    finally:
        torch.set_num_threads(threads)
    return batches * batch_size * dataset.segment_samples / dataset.sample_rate / seconds


def manifest_cost(files: int, folder: Path) -> ManifestCost:
    """Loads a manifest with `files` entries; the files do not exist."""
    path = folder / "manifest.jsonl"
    entries = [Entry(f"speaker{n // 100}/utterance{n}.flac", 24_000, 1, 240_000, 300_000) for n in range(files)]
    Manifest(folder, entries).save(path)
    begun = time.perf_counter()
    Manifest.load(path)
    seconds = time.perf_counter() - begun
    tracemalloc.start()  # it slows loading down, so memory is measured separately
    manifest = Manifest.load(path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return ManifestCost(seconds, held / len(manifest.entries))


def _training_rate(experiment: Sequence[str]) -> float:
    """Seconds of audio per second in the first steps of a run."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = own_trainer("auto", [], folder, experiment)
        audio = trainer.data.batch(0).to(trainer.device)
        taken = []
        for _ in range(1 + _STEPS):
            begun = clock()
            trainer.train_step(audio)
            taken.append(clock() - begun)
            trainer.step += 1
        trainer.logger.close()
        return trainer.data.seconds_per_step / median(taken[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="scripts.bench.data", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="duration of each of 8 files per format (%(default)g)"
    )
    parser.add_argument("--batches", type=int, default=100, help="batches of 8 x 1 s (%(default)s)")
    parser.add_argument("--files", type=int, default=100_000, help="entries of the manifest (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the results as JSON here")
    options = parser.parse_args(arguments)
    print(describe_machine(), flush=True)
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix, hz in itertools.product(_FORMATS, (24_000, 44_100)):
            manifest = write_corpus(Path(folder) / f"{suffix}{hz}", suffix, hz, 8, options.seconds)
            rates[f"{suffix}, {hz} Hz, stereo"] = reading_rate(manifest, options.batches)
        opening = manifest_cost(options.files, Path(folder))
    keep_freed_memory()  # after the workers, which would inherit the setting
    training = {
        "paper-size model": _training_rate(AUDIOCRAFT),
        "starter_seanet": _training_rate(_STARTER),
    }
    print(f"seconds of audio per second, training with {torch.get_num_threads()} threads")
    for name, taken in training.items():
        print(f"  {f'training uses, {name}':<44} {taken:8.1f}")
    for name, read in rates.items():
        ratios = ", ".join(f"{read / taken:.0f} x {experiment}" for experiment, taken in training.items())
        workers = f"{math.ceil(_GPU_RATE / read)} workers for {_GPU_RATE}"
        print(f"  {f'one worker reads, {name}':<44} {read:8.1f}  ({ratios}; {workers})")
    size = f"{opening.bytes_per_file:.0f} bytes per file"
    print(f"a manifest of {options.files} files opens in {opening.seconds:.2f} s, {size}")
    if options.json:
        about = {"machine": describe_machine(), "training": training, "reading": rates}
        options.json.write_text(json.dumps(about | {"files": options.files, "manifest": opening._asdict()}, indent=1))


if __name__ == "__main__":
    main()
