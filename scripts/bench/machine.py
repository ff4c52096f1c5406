"""A description of the machine for benchmark results."""

import os
import platform
import time

import torch

from codec.training.startup.cpu import cpu_facts

_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "amx_bf16",
    "avx512_fp16",
    "amx_fp16",
)  # CPU features that decide the speed


def clock() -> float:
    """Seconds, after everything that was started on the GPU has ended."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def describe_machine() -> str:
    """CPU, usable cores, CPU features, GPU if there is one, torch version."""
    facts = cpu_facts()
    name = facts.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in facts:
        name += f" family {facts['cpu family']} model {facts['model']}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    features = [feature for feature in _FEATURES if feature in facts.get("flags", "").split()]
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return ", ".join([name, f"{cores} cores", " ".join(features) or "no AVX", *gpu, f"torch {torch.__version__}"])
