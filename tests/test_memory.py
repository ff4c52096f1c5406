"""Freed memory stays with the process: tested in one of its own, for it cannot be undone."""

import subprocess
import sys

CODE = """
import resource, torch
from codec.training.memory import keep_freed_memory
kept = {keep} and keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16, 1 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(4):  # until the heap has settled
    faults()
print(kept, faults())
"""


def later_allocation(keep: bool) -> tuple[str, int]:
    code = CODE.format(keep=keep)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept, int(faults)


def test_memory_is_used_again_without_new_pages() -> None:
    kept, faults = later_allocation(keep=True)
    assert kept == "True"
    assert faults < later_allocation(keep=False)[1] / 10
