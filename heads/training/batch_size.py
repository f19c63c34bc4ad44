"""Batch sizes chosen by measurement: at inference for the highest throughput, in training for the largest that fits the
device."""

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
"""A larger batch must raise the throughput by at least this factor."""
SHARE = 0.8
"""The share of a GPU's memory that may be used. Later clips may be larger than the first ones."""
TRIES = 2


def fitting_batch_size(model: Grounder, dataset: CachedDataset, window: int, device: torch.device) -> int:
    """Double the batch from one until throughput stops rising, a GPU's memory runs out, or the split has no more clips.

    ``window`` as in `inference_batches`. Tubes may differ in their last bits from those of another batch size.
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
    """The throughput: the best of `TRIES` runs. Each includes the copy of the results to the CPU, which synchronises
    with the GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        read_windows(model, batch)
        seconds.append(time.perf_counter() - start)
    return sum(map(len, batch.frames)) / min(seconds)


def memory_is_short(device: torch.device) -> bool:
    """Whether a batch of twice the size might not fit."""
    if device.type != "cuda":
        return False
    total = torch.cuda.get_device_properties(device).total_memory
    return 2 * torch.cuda.max_memory_allocated(device) > SHARE * total


def fitting_share(run: Run) -> int:
    """The number of clips of a batch that the device holds at once: the largest that fits and divides the batch size.

    Measured by a forward and backward pass of one of the longest clips, and one of two of them: the difference is the
    cost of every further clip. Memory for the optimiser states is reserved. The result is at least one, also where two
    clips do not fit.
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
    """Positions of two of the longest clips, of different videos where there are two: clips of one video share their
    frames."""
    first, *others = (-dataset.extents[:, 0]).argsort(kind="stable").tolist()
    videos = dataset.cache.samples.video_ids
    second = (i for i in others if videos[dataset.rows[i]] != videos[dataset.rows[first]])
    return [first, next(second, first)]


def needed_bytes(run: Run, count: int) -> int:
    """Memory for a training pass of ``count`` clips: on a GPU the peak of forward and backward pass, elsewhere the
    bytes stored for the backward pass."""
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
    """Total memory of the GPU, or of the machine, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
