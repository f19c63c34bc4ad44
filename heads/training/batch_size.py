"""How many clips to run at once: as many as pay on this device, tried on the first clips of the very split."""

from __future__ import annotations

import time

import torch

from ...cache.batches.batch import Batch
from ...cache.batches.dataset import CachedDataset
from ...cache.batches.order import inference_batches
from ..infer import read_windows
from ..model import Grounder

GAIN = 1.05
"""A doubling that is not this many times as fast does not pay."""
SHARE = 0.8
"""Of a GPU's memory, at most; later clips may be larger than the first ones."""
TRIES = 2


def fitting_batch_size(model: Grounder, dataset: CachedDataset, window: int, device: torch.device) -> int:
    """Doubled from one as long as more slots a second come out, a GPU's memory lasts, and the split has clips.

    ``window`` as in `inference_batches`. Tubes may differ in their last bits from those of another size.
    """
    model.eval()
    best, fastest, size = 1, 0.0, 1
    while True:
        batch = first_batch(dataset, size, window, device)
        try:
            rate = slots_per_second(model, batch, device)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            return best
        if rate < GAIN * fastest:
            return best
        best, fastest = size, rate
        if len(batch.samples) < size or memory_is_short(device):
            return best
        size *= 2


def first_batch(dataset: CachedDataset, size: int, window: int, device: torch.device) -> Batch:
    return next(inference_batches(dataset, size, window, device)).to(device)


def slots_per_second(model: Grounder, batch: Batch, device: torch.device) -> float:
    """The faster of some tries; the answers' way back to the CPU is part of each, so that a GPU is waited for."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        read_windows(model, batch)
        seconds.append(time.perf_counter() - start)
    return sum(map(len, batch.frames)) / min(seconds)


def memory_is_short(device: torch.device) -> bool:
    """Whether twice as many clips as just now might not fit."""
    if device.type != "cuda":
        return False
    total = torch.cuda.get_device_properties(device).total_memory
    return 2 * torch.cuda.max_memory_allocated(device) > SHARE * total
