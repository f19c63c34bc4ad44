"""Keeps freed memory in the training process.

A step on a CPU allocates and frees gigabytes in tensors of many megabytes. The C library returns such blocks to the
system at once, and the system clears every page again in the next step: up to a third of its time.
"""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # names of glibc's mallopt


def hold_memory() -> bool:
    """Keep freed memory in this process from now on, for its next tensors. False where the C library does not support
    it."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc
        return False
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, 2**31 - 1))
