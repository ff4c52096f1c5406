"""Memory of a training process on a CPU."""

import ctypes
import sys
from typing import Any

__all__ = ["keep_freed_memory", "return_freed_memory"]

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next step instead of giving it back to the system.

    A step allocates and frees the same large tensors as the one before. By default each is a mapping of its own, and
    the kernel clears its pages anew at every step. The price is that the process stays as large as its largest step.

    Returns:
        Whether there was a glibc to tell.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20), (_M_ARENA_MAX, 1))
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings)


def return_freed_memory() -> bool:
    """Gives back what was freed until now, after work of another kind: its holes are of sizes that no step asks for.

    Returns:
        Whether there was any, and a glibc to tell.
    """
    trim = _of_glibc("malloc_trim")
    return trim is not None and trim(ctypes.c_size_t(0)) == 1


def _of_glibc(name: str) -> Any:
    """The C function, or None."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
