"""Memory for what batches are read into.

Taking new memory for every batch costs about as much as reading into it: the system clears every page first. So it is
taken again, but never while anything still refers to it.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

Allocate = Callable[[str, tuple[int, ...], torch.dtype], Tensor]
"""(what for, shape, type) → a tensor with any content."""


LINE = 64
"""Bytes of a cache line. The system fills memory that starts at one up to a fifth faster than memory that starts 16 bytes
behind one, as NumPy's does."""


def aligned(size: int) -> NDArray[np.uint8]:
    """(size,) bytes of new memory, at the start of a cache line."""
    block = np.empty(size + LINE, np.uint8)
    start = -block.ctypes.data % LINE
    return block[start : start + size]


def fresh(purpose: str, shape: tuple[int, ...], dtype: torch.dtype, pinned: bool = False) -> Tensor:
    """New memory. Page-locked memory is kept by torch, which gives it again when the copies out of it are done.

    In a worker of a DataLoader it is memory that the waiting process sees too, as in torch's own collation: a batch is then
    handed over, not copied.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype, pin_memory=pinned)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(dtype).view(shape)


class Reused:
    """Memory that is given again once the last tensor in it is gone. For tensors that no device copies from.

    There are never more blocks for a purpose than tensors of that purpose were alive at once, and none is larger than
    the largest of them. Safe to share between threads; gone with its last user.
    """

    def __init__(self) -> None:
        self._free: dict[str, list[NDArray[np.uint8]]] = {}

    def __call__(self, purpose: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if not size:
            return torch.empty(shape, dtype=dtype)
        free = self._free.setdefault(purpose, [])
        try:
            block = free.pop()
        except IndexError:
            block = np.empty(0, np.uint8)
        if len(block) < size:
            block = aligned(size)  # instead of the smaller one, not beside it
        lent = block[:size]
        # Every view of the tensor holds its storage, and the storage holds `lent`. A finalizer may run in any thread
        # and at any moment, so giving back is one step that takes no lock.
        weakref.finalize(lent, free.append, block).atexit = False
        return torch.from_numpy(lent).view(dtype).view(shape)


def memory_for(device: torch.device) -> Allocate:
    """Where batches for a device are best read into."""
    return partial(fresh, pinned=True) if device.type == "cuda" else Reused()
