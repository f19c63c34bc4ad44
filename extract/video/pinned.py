"""Page-locked memory: a GPU copies out of it by itself, beside its work."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

log = logging.getLogger(__name__)


def pin(memory: memoryview) -> Callable[[], None] | None:
    """Lock the pages of some memory for CUDA; returns what undoes it. None where that is not possible, which is said.

    Copies out of memory that is not locked are right, too; they are slower and hold up the work.
    """
    if not torch.cuda.is_available():
        return None
    address, runtime = np.frombuffer(memory, np.uint8).ctypes.data, torch.cuda.cudart()
    code = int(runtime.cudaHostRegister(address, len(memory), 0))
    if code:
        log.warning("%d MB of memory cannot be page-locked (CUDA error %d): copies are slower", len(memory) >> 20, code)
        return None
    return lambda: runtime.cudaHostUnregister(address)
