"""Memory of a training process, held on to.

A step on a CPU takes and frees gigabytes in tensors of many megabytes. The C library gives such pieces back to the system
at once, which has to clear every page of them again in the next step: up to a third of its time.
"""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # names of glibc's mallopt


def hold_memory() -> bool:
    """From here on, memory this process frees stays with it, for its next tensors. False where the C library cannot."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc
        return False
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, 2**31 - 1))
