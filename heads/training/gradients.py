"""Sums gradients over all ranks while the backward pass still runs.

Parameters are grouped into buckets in the order in which their gradients are computed, the last layers first. The
all-reduce of a bucket starts as soon as all its gradients are there. torch's DistributedDataParallel does the same, but
supports neither a rank without a sample in the last, short batch nor parameters that only some samples use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .ranks import Ranks, together

BUCKET_BYTES = 16 * 1024 * 1024
"""Small enough for several transfers during a backward pass, large enough to use the bandwidth between ranks."""


@dataclass
class Bucket:
    """Consecutive parameters, whose gradients are reduced together."""

    parameters: list[nn.Parameter]
    missing: int = 0
    """Number of gradients not computed yet."""
    numbers: Tensor | None = None
    """All gradients, concatenated, once the all-reduce has started."""
    arrival: Any = None

    def send(self) -> None:
        """Start the all-reduce of this bucket. A missing gradient counts as zero."""
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in self.parameters]
        self.numbers = torch.cat(parts)
        with together():
            self.arrival = dist.all_reduce(self.numbers, async_op=True)


@dataclass
class SharedGradients:
    """The gradients of one step. ``trained``: the trained parameters, in the same order on every rank."""

    ranks: Ranks
    trained: Sequence[nn.Parameter]
    buckets: list[Bucket] = field(default_factory=list)
    sent: int = 0
    """Number of buckets sent. They are sent in order, so all ranks send the same sequence."""

    @contextmanager
    def added(self) -> Iterator[None]:
        """Context of the last backward pass of a step. Complete buckets are sent at once, because no gradient changes
        afterwards."""
        if self.ranks.count == 1:
            yield
            return
        self.buckets = in_buckets(self.trained)
        owner = {id(p): bucket for bucket in self.buckets for p in bucket.parameters}
        handles = [p.register_post_accumulate_grad_hook(lambda p: self.arrived(owner[id(p)])) for p in self.trained]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def arrived(self, bucket: Bucket) -> None:
        bucket.missing -= 1
        while self.sent < len(self.buckets) and not self.buckets[self.sent].missing:
            self.send_next()

    def send_next(self) -> None:
        self.buckets[self.sent].send()
        self.sent += 1

    def sum(self, loss: Tensor) -> Tensor:
        """Replace every gradient by its sum over the ranks; returns the sum of the losses.

        A parameter without a gradient on any rank keeps none, as in a single process.
        """
        if self.ranks.count == 1:
            return loss
        if not self.buckets:  # this rank had no sample
            self.buckets = in_buckets(self.trained)
        while self.sent < len(self.buckets):
            self.send_next()
        given = [float(p.grad is not None) for p in self.trained]
        known = torch.tensor([*given, 0.0], device=loss.device)
        known[-1] = loss.detach()
        with together():
            dist.all_reduce(known)
            for bucket in self.buckets:
                bucket.arrival.wait()
        reached = dict(zip(map(id, self.trained), known[:-1].tolist(), strict=True))
        for bucket in self.buckets:
            assert bucket.numbers is not None
            parts = bucket.numbers.split([p.numel() for p in bucket.parameters])
            for parameter, part in zip(bucket.parameters, parts, strict=True):
                parameter.grad = part.view_as(parameter) if reached[id(parameter)] else None
        return known[-1]


def in_buckets(trained: Sequence[nn.Parameter]) -> list[Bucket]:
    """Parameters from last to first, in buckets of about `BUCKET_BYTES`, each of one type."""
    found: list[Bucket] = []
    size = 0
    for parameter in reversed(trained):
        if not found or size >= BUCKET_BYTES or found[-1].parameters[0].dtype != parameter.dtype:
            found.append(Bucket([]))
            size = 0
        found[-1].parameters.append(parameter)
        found[-1].missing += 1
        size += parameter.nbytes
    return found
