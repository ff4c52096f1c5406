"""glibc's memory allocator in a training process on a CPU. On other systems both functions do nothing."""

import ctypes
import sys
from typing import Any

__all__ = ["keep_freed_memory", "return_freed_memory"]

# Options of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for later allocations.

    Every training step allocates the same large tensors. By default each one is a new memory mapping, whose pages the
    kernel must clear. The process then stays as large as its largest step.

    Returns:
        Whether glibc accepted the options.
    """
    mallopt = _glibc_function("mallopt")
    if mallopt is None:
        return False
    options = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20), (_M_ARENA_MAX, 1))
    return all(mallopt(ctypes.c_int(option), ctypes.c_int(value)) == 1 for option, value in options)


def return_freed_memory() -> bool:
    """Returns freed memory to the system. Call it after a task whose tensors have other sizes than those of a step.

    Returns:
        Whether there was memory to return.
    """
    trim = _glibc_function("malloc_trim")
    return trim is not None and trim(ctypes.c_size_t(0)) == 1


def _glibc_function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
