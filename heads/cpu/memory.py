"""Keeps freed memory in the training process, or returns it.

A step on a CPU allocates and frees gigabytes in tensors of many megabytes. The C library returns such blocks to the
system at once, and the system clears every page again in the next step: up to a third of its time. So a head on stored
features keeps them.

Encoders that train or run with the head need larger blocks, of many sizes. Kept ones do not fit the next batch, and the
process grows from step to step. There what was freed is returned after every step, also by the C library, which keeps
smaller blocks on its own.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # names of glibc's mallopt


def of_glibc(name: str) -> Any:
    """A function of the GNU C library. None where this process has another one, or another system."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def hold_memory() -> bool:
    """Keep freed memory in this process from now on, for its next tensors. False where the C library does not support
    it."""
    mallopt = of_glibc("mallopt")
    return bool(mallopt and mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, 2**31 - 1))


def return_memory() -> bool:
    """Return all freed memory of this process to the system. False where there was none, or where the C library does not
    support it."""
    trim = of_glibc("malloc_trim")
    return bool(trim and trim(0))
