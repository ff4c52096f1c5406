"""Freed memory stays with the process: tested in one of its own, for it cannot be undone."""

import subprocess
import sys

CODE = """
import resource, torch
from codec.training.startup.malloc import keep_freed_memory
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


HOLES = """
from codec.training.startup.malloc import keep_freed_memory, return_freed_memory
import torch
def resident():
    return int(open("/proc/self/statm").read().split()[1])
keep_freed_memory()
blocks = [torch.ones(1 << 18) for _ in range(200)]
before = resident()
last = blocks[-1]  # beyond it the heap would shrink by itself
del blocks
kept = resident()
print(before - kept, return_freed_memory(), kept - resident())
"""


def test_holes_are_given_back_when_asked() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    freed, said, returned = done.stdout.split()
    assert int(freed) < 1000, "pages of 4 kB, of 51200"
    assert said == "True"
    assert int(returned) > 45000
