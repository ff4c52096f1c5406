"""Times start-up: imports, k-means initialization of the codebooks, the first training step.

python -m scripts.bench.startup [--precision auto|float32] [--rounds N] [--json FILE] [-- overrides]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

from codec.quantization import ResidualVectorQuantizer
from codec.training.startup.device import select_device
from codec.training.startup.malloc import keep_freed_memory
from scripts.bench.machine import clock, describe_machine
from scripts.bench.step import own_trainer

__all__ = ["main"]

# Times an import without the start of the interpreter.
_IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"

_VECTORS = (300, 4096)  # for k-means: the latents of one batch of 4 x 1 s, and of fourteen


def _seconds(action: Callable[[], object]) -> float:
    begun = clock()
    action()
    return clock() - begun


def _import_seconds(name: str) -> float:
    command = [sys.executable, "-c", _IMPORT.format(name)]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def _kmeans_seconds(vectors: int) -> float:
    """Initializes 32 codebooks of 1024 codes."""
    device = select_device("auto")
    quantizer = ResidualVectorQuantizer(latent_dim=128, num_codebooks=32, codebook_size=1024).to(device)
    latent = torch.randn(vectors, 128, generator=torch.Generator().manual_seed(0)).to(device)
    return _seconds(lambda: quantizer.initialize(latent))


def _first_step(precision: str, overrides: Sequence[str]) -> dict[str, float]:
    """Builds a trainer for audiocraft's 24 kHz model, including the check of bfloat16, then takes one step."""
    with tempfile.TemporaryDirectory() as folder:
        begun = clock()
        trainer = own_trainer(precision, list(overrides), folder)
        built = clock() - begun
        audio = trainer.data.batch(0).to(trainer.device)
        first = _seconds(lambda: trainer.train_step(audio))
        trainer.logger.close()
        return {"trainer": built, "first training step": first}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="scripts.bench.startup", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3, help="repetitions (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the results as JSON here")
    parser.add_argument("overrides", nargs="*", help="overrides of the training configuration, after --")
    options = parser.parse_args(arguments)
    print(describe_machine(), flush=True)
    keep_freed_memory()
    found: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        timed = {
            "import torch": _import_seconds("torch"),
            "import codec.coding": _import_seconds("codec.coding"),
            **{f"k-means, 32 codebooks, {vectors} vectors": _kmeans_seconds(vectors) for vectors in _VECTORS},
            **_first_step(options.precision, options.overrides),
        }
        for name, seconds in timed.items():
            found.setdefault(name, []).append(seconds)
    print(f"seconds, median of {options.rounds}, {torch.get_num_threads()} threads")
    for name, taken in found.items():
        print(f"  {name:<42} {median(taken):6.2f}  ({min(taken):.2f} to {max(taken):.2f})")
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "startup": found}, indent=1))


if __name__ == "__main__":
    main()
