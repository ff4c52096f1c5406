"""A limit on memory while networks are made, so that sizes that do not fit are an error."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["limit_to_free_memory"]


@contextmanager
def limit_to_free_memory() -> Iterator[None]:
    """Within the block an allocation fails if it needs more memory than is free.

    Otherwise the kernel grants it and ends a process later, this one or another. Without /proc there is no limit.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    free = _free_bytes()
    if free is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        finite = [limit for limit in before if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min([used + free, *finite]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _free_bytes() -> int | None:
    """Memory that can be used without swapping; None if the system does not say."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return None
