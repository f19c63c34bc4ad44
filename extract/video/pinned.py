"""Page-locked memory, from which a GPU copies asynchronously."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

log = logging.getLogger(__name__)


def pin(memory: memoryview) -> Callable[[], None] | None:
    """Page-lock memory for CUDA; returns a function that unlocks it. None without a GPU, or after a logged failure.

    Copies from memory that is not page-locked give the same values; they are slower and block the caller.
    """
    import torch  # a check of videos needs no torch, which takes seconds to load

    if not torch.cuda.is_available():
        return None
    address, runtime = np.frombuffer(memory, np.uint8).ctypes.data, torch.cuda.cudart()
    code = int(runtime.cudaHostRegister(address, len(memory), 0))
    if code:
        log.warning("%d MB of memory cannot be page-locked (CUDA error %d): copies are slower", len(memory) >> 20, code)
        return None
    return lambda: runtime.cudaHostUnregister(address)
