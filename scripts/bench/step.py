"""Times a training step and compares it with audiocraft's. Steps alternate, and ratios are of their medians.

Our step is timed with two settings: per-loss gradients in every step, as in audiocraft, and in every eighth step, as
`balancer=encodec` does after its first 1000 steps. With a precision other than float32, audiocraft runs under its own
bfloat16 autocast, and in float32 as well.

python -m scripts.bench.step step [--precision auto|float32] [--rounds N] [--peer PYTHON] [--json FILE] [overrides ...]
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from codec.training import Trainer
from codec.training.startup.device import select_device
from codec.training.startup.malloc import keep_freed_memory
from scripts.bench.machine import clock, describe_machine
from scripts.composition import CONFIGS, build_trainer

_ROOT = Path(__file__).resolve().parents[2]
# The model, losses and discriminator of audiocraft's 24 kHz solver, on batches of 4 x 1 s.
AUDIOCRAFT = (
    "experiment=audiocraft_24khz",
    "adversarial.update=simultaneous",
    "data=clips",
    "data.num_workers=0",
    "data.batch_size=4",
    "name=bench",
)
_OURS = {
    "refresh_every=8": ("balancer.refresh_every=8", "balancer.refresh_from=0"),
    "refresh_every=1": ("balancer.refresh_every=1",),
}


class Worker:
    """A process that takes one training step per request."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds: list[float] = []
        self.facts: dict[str, Any] = self._answer()

    def step(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        seconds = float(self._answer()["seconds"])
        self.seconds.append(seconds)
        return seconds

    def close(self) -> int:
        """Ends the process and returns its peak memory in bytes: on a GPU what torch allocated there."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        peak = int(self._answer()["peak_bytes"])
        self.process.wait()
        self.process.stdout.close()
        return peak

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise RuntimeError(f"the worker exited with status {self.process.wait()} before it answered")


def serve(step: Any, facts: dict[str, Any]) -> None:
    """Runs inside a worker: takes a step for every line of input and prints its duration."""
    import resource

    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        begun = clock()
        step()
        print(json.dumps({"seconds": clock() - begun}), flush=True)
    on_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_bytes": peak}), flush=True)


def own_trainer(
    precision: str, overrides: Sequence[str], folder: str, experiment: Sequence[str] = AUDIOCRAFT
) -> Trainer:
    """A trainer whose codebooks are initialized."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", [*experiment, f"trainer.precision={precision}", *overrides])
    trainer = build_trainer(cfg, Path(folder), device=select_device("auto"))
    trainer.startup.check_precision(trainer.adversarial, trainer.step)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1200, trainer.codec.config.latent_dim, generator=generator)
    trainer.codec.quantizer.initialize(latents.to(trainer.device))
    return trainer


def work(precision: str, overrides: list[str]) -> None:
    """The worker process of this project."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer = own_trainer(precision, overrides, folder)
        audio = trainer.data.batch(0).to(trainer.device)

        def step() -> None:
            trainer.train_step(audio)
            trainer.step += 1

        for _ in range(2):
            step()
        serve(step, {"precision": trainer.precision.description, "torch": torch.__version__})


def compare(arguments: argparse.Namespace) -> None:
    """Alternates steps of the workers, and prints medians and ratios."""
    print(describe_machine(), flush=True)
    precision = f"--precision={arguments.precision}"
    workers = {
        name: Worker([sys.executable, "-m", "scripts.bench.step", "work", *settings, *arguments.overrides, precision])
        for name, settings in _OURS.items()
    }
    peers = {"audiocraft": precision} if arguments.peer else {}
    if arguments.peer and arguments.precision != "float32":
        peers["audiocraft in float32"] = "--precision=float32"
    for name, flag in peers.items():
        workers[name] = Worker([arguments.peer, str(_ROOT / "scripts" / "bench" / "audiocraft.py"), flag])
    for _ in range(arguments.rounds):
        for worker in workers.values():
            worker.step()
    rows = {
        name: {
            **worker.facts,
            "seconds": worker.seconds,
            "median": median(worker.seconds),
            "peak_bytes": worker.close(),
        }
        for name, worker in workers.items()
    }
    print(f"training step, 24 kHz model of audiocraft's size, batch 4 x 1 s, {torch.get_num_threads()} threads")
    for name, row in rows.items():
        low, high = min(row["seconds"]), max(row["seconds"])
        print(
            f"  {name:<21} median {row['median']:6.3f} s  ({low:.3f} to {high:.3f})  "
            f"peak {row['peak_bytes'] / 2**30:.2f} GiB  {row['precision']}"
        )
    for name, peer in itertools.product(_OURS, peers):
        ratio, memory = (rows[name][figure] / rows[peer][figure] for figure in ("median", "peak_bytes"))
        print(f"  {name}, compared with {peer}: {1 / ratio:.2f} times as fast, {memory:.2f} of the memory")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"machine": describe_machine(), "step": rows}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.bench.step", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument(
        "what", choices=["step", "work"], help="step: the comparison; work: one worker process (internal)"
    )
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--peer", help="Python of an environment with audiocraft, made by scripts/bench.sh")
    parser.add_argument("--json", help="also write the results as JSON here")
    parser.add_argument("overrides", nargs="*", help="overrides of the training configuration")
    arguments = parser.parse_intermixed_args()  # overrides may follow options
    if arguments.what == "work":
        work(arguments.precision, arguments.overrides)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
