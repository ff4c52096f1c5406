"""Checks everything that only a machine with a GPU can show, in one run of at most eight minutes.

python -m scripts.bench.gpu_check [--minutes 7.5] [--only NAME ...] [--json FILE]
python -m scripts.bench.gpu_check --device cpu --tiny   # a rehearsal without a GPU

Sections, the most important first. One that no longer fits into the time is left out, which is printed.

  equal      output, losses, gradients and codes of the CPU and of the GPU, with and without TF32
  steps      milliseconds a step, peak memory, waits by line, kernels, in bfloat16, float32 and TF32
  resume     whether a resumed run equals an uninterrupted one, with and without trainer.deterministic
  coding     encoding and decoding relative to real time, and the latency of a streamed frame
  balancers  a step of every strategy relative to weighted_sum
  nccl       a step in a process group of one
  loader     seconds of audio that the loader's workers read per second
  learning   whether losses fall alike in float32 and bfloat16
  compiled   steps of the starters with trainer.compile, and the time that it takes at the start
"""

import argparse
import json
import os
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from scripts.bench import gpu_sections
from scripts.bench.gpu_sections import Check
from scripts.bench.machine import describe_machine

__all__ = ["SECTIONS", "main"]

# Name -> the section, and the seconds that must be left for it.
SECTIONS = {
    "equal": (gpu_sections.equal, 45),
    "steps": (gpu_sections.steps, 90),
    "resume": (gpu_sections.resume, 30),
    "coding": (gpu_sections.coding, 30),
    "balancers": (gpu_sections.balancers, 40),
    "nccl": (gpu_sections.nccl, 15),
    "loader": (gpu_sections.loader, 25),
    "learning": (gpu_sections.learning, 30),
    "compiled": (gpu_sections.compiled, 240),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="scripts.bench.gpu_check", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=7.5, help="%(default)s")
    parser.add_argument("--tiny", action="store_true", help="small models, for a rehearsal on a CPU")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="default: all")
    parser.add_argument("--json", type=Path, help="also write the results as JSON here")
    options = parser.parse_args(arguments)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for `resume`; cuBLAS reads it when it starts
    print(describe_machine(), flush=True)
    check = Check(torch.device(options.device), options.tiny, time.monotonic() + 60 * options.minutes)
    for name in options.only:
        section, needed = SECTIONS[name]
        if check.seconds_left() < needed and not options.tiny:
            check.note(name, f"left out: {check.seconds_left():.0f} s are left, {needed} are needed")
            continue
        try:
            section(check)
        except Exception as error:  # the other sections are still of interest
            check.note(name, f"FAILED: {type(error).__name__}: {error}")
            traceback.print_exc()
        if options.json:
            options.json.write_text(json.dumps({"machine": describe_machine(), "found": check.found}, indent=1))


if __name__ == "__main__":
    main()
