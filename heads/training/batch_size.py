"""How many clips to run at once: at inference as many as pay on this device, in training as many as fit it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ...cache.batches.batch import Batch
from ...cache.batches.dataset import CachedDataset
from ...cache.batches.order import inference_batches
from ..infer import read_windows
from ..model import Grounder
from ..precision import half_precision

if TYPE_CHECKING:
    from .state import Run

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


def fitting_share(run: Run) -> int:
    """How many of a batch's clips this run's device takes at once: the most that divide the batch.

    One of the longest clips and two of them go through a training step's forward and backward pass; what the second adds is
    what every further one costs. Optimiser states are still to come. One is taken in any case, also where two do not fit.
    """
    size, states = run.experiment.train.batch_size, 2 * sum(p.nbytes for p in run.model.parameters() if p.requires_grad)
    one = needed_bytes(run, 1)
    try:
        each = max(needed_bytes(run, 2) - one, 1)
        most = int(SHARE * memory_of(run.device) - states - (one - each)) // each
    except torch.OutOfMemoryError:
        most = 1
        run.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    return next(n for n in range(size, 0, -1) if size % n == 0 and (n <= max(most, 1) * run.ranks.count))


def longest(dataset: CachedDataset) -> list[int]:
    """Positions of two of the longest clips, of two videos where there are two: clips of one share their frames."""
    first, *others = (-dataset.extents[:, 0]).argsort(kind="stable").tolist()
    videos = dataset.cache.samples.video_ids
    second = (i for i in others if videos[dataset.rows[i]] != videos[dataset.rows[first]])
    return [first, next(second, first)]


def needed_bytes(run: Run, count: int) -> int:
    """On a GPU the peak of a forward and backward pass of some clips; elsewhere what is kept between the two."""
    batch = run.dataset.collate([run.dataset[i] for i in longest(run.dataset)[:count]]).to(run.device)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    cuda = run.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(run.device)
    drawing = [run.device] if cuda and torch.cuda.is_available() else []
    with torch.random.fork_rng(drawing), saved_tensors_hooks(keep, lambda tensor: tensor):
        with half_precision(run.experiment.train.amp, run.device):
            output = run.model.train()(batch)
        assert batch.targets is not None
        losses = run.criterion(output, batch.targets, batch.inputs.frame_padding)
        if cuda:
            torch.stack(list(losses.values())).sum().backward()
    run.optimizer.zero_grad(set_to_none=True)
    return torch.cuda.max_memory_allocated(run.device) if cuda else sum(kept.values())


def memory_of(device: torch.device) -> int:
    """Bytes of a device, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
