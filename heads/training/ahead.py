"""Copies the next batch to a GPU while the current step is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...cache.batches.batch import Batch


def copied_ahead(batches: Iterable[Batch | None], device: torch.device) -> Iterator[Batch | None]:
    """Batches on a device, in order. On a GPU each copy is started one batch earlier, on its own stream, from
    pinned memory (`memory_for`). The CPU does not wait for copies."""
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
    """Batches whose copies were started, each with the event that marks the end of its copy."""
    for batch in batches:
        with torch.cuda.stream(stream):
            there = batch and batch.to(device)
        yield there, stream.record_event()


def tensors(batch: Batch | None) -> list[Tensor]:
    """All tensors of a batch that a step reads."""
    if batch is None:
        return []
    groups = [vars(g) for g in (batch.inputs, batch.targets, *batch.live) if g is not None]
    return [leaf for leaf in tree_leaves(groups) if isinstance(leaf, Tensor)]
