"""The next batch on its way to a GPU while the step before it is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...cache.batches.batch import Batch


def copied_ahead(batches: Iterable[Batch | None], device: torch.device) -> Iterator[Batch | None]:
    """Batches on a device, in order. On a GPU the copy of each was begun one batch earlier, on a stream of its own, out of
    page-locked memory (`memory_for`); nothing on this side waits for it."""
    if device.type != "cuda" or not torch.cuda.is_available():
        yield from (batch and batch.to(device) for batch in batches)
        return
    copying = torch.cuda.Stream(device)
    copies = begun(batches, device, copying)
    before = next(copies, None)
    while before is not None:
        after = next(copies, None)
        batch, done = before
        torch.cuda.current_stream(device).wait_event(done)
        for tensor in tensors(batch):
            tensor.record_stream(torch.cuda.current_stream(device))
        yield batch
        before = after


def begun(
    batches: Iterable[Batch | None], device: torch.device, stream: torch.cuda.Stream
) -> Iterator[tuple[Batch | None, torch.cuda.Event]]:
    """Batches whose copies were asked for, and what says that they are done."""
    for batch in batches:
        with torch.cuda.stream(stream):
            there = batch and batch.to(device)
        yield there, stream.record_event()


def tensors(batch: Batch | None) -> list[Tensor]:
    """All that a step reads of a batch."""
    if batch is None:
        return []
    groups = [vars(g) for g in (batch.inputs, batch.targets, *batch.live) if g is not None]
    return [leaf for leaf in tree_leaves(groups) if isinstance(leaf, Tensor)]
