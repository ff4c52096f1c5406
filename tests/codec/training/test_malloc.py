"""Freed memory stays with the process. Tested in processes of their own, because the options cannot be undone."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")

FAULTS = """
import resource, torch
from codec.training.startup.malloc import keep_freed_memory
kept = {keep} and keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16, 1 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(4):  # until the heap has its final size
    faults()
print(kept, faults())
"""

# The last block stays allocated: glibc shrinks the heap by itself where the memory at its end is free.
HOLES = """
from codec.training.startup.malloc import keep_freed_memory, return_freed_memory
import resource, torch
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
keep_freed_memory()
blocks = [torch.ones(1 << 18) for _ in range(200)]
before = resident()
last = blocks[-1]
del blocks
kept = resident()
print(before - kept, return_freed_memory(), kept - resident())
"""


def _output(code: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_kept_memory_needs_no_new_pages() -> None:
    kept, faults = _output(FAULTS.format(keep=True))
    _, faults_by_default = _output(FAULTS.format(keep=False))
    assert kept == "True"
    assert int(faults) < int(faults_by_default) / 10


def test_freed_memory_is_returned_on_request() -> None:
    freed, said, returned = _output(HOLES)
    megabytes = 1 << 20  # each of the 200 blocks has one
    assert int(freed) < 4 * megabytes
    assert said == "True"
    assert int(returned) > 175 * megabytes
