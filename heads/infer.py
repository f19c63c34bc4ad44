"""Inference: a head's tubes for the batches of a split. Targets are not used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby

import torch

from ..cache.batches.batch import Batch
from ..cache.schema import Tube
from ..precision import float32_products
from .cpu import hold_memory
from .decision import Reading, Window, explain, join
from .model import Grounder


@torch.no_grad()
def read_windows(model: Grounder, batch: Batch, attention: bool = False) -> list[Window]:
    """The last decoder layer's output for every clip of a batch on the model's device. ``attention``: include it."""
    with float32_products():
        output = model(batch)
    layer = output.every.at(-1)
    boxes, span = layer.boxes.float().cpu(), layer.span.float().cpu()
    score = None if layer.score is None else layer.score.float().cpu()
    weights = layer.attention.float().cpu() if attention else None
    inside = None if output.inside is None else output.inside.float().cpu()
    found = []
    for b, (sample, view, frames) in enumerate(zip(batch.samples, batch.views, batch.frames, strict=True)):
        T = len(frames)
        scores = None if score is None else score[b, :, :T]
        looks = None if weights is None else weights[b, :, :T, :T]
        slots = None if inside is None else inside[b, :T]
        found.append(Window(sample, view, frames.numpy(), boxes[b, :, :T], span[b, :, :T], scores, looks, slots))
    return found


def predict(
    model: Grounder,
    batches: Iterable[Batch],
    device: torch.device,
    decide: Callable[[list[Window]], Tube] = join,
) -> Iterator[Tube]:
    """Tubes of every sample of some batches, in order. The model is in evaluation mode meanwhile.

    Consecutive clips of one sample, in one batch or across several, are its windows. ``decide`` turns them into a tube;
    it depends on the head.
    """
    with evaluating(model):
        yield from map(decide, windows_of_samples(model, batches, device))


def read(
    model: Grounder,
    batches: Iterable[Batch],
    device: torch.device,
    decide: Callable[[list[Window]], Reading] = explain,
    attention: bool = True,
) -> Iterator[Reading]:
    """As `predict`, with the evidence: start and end probabilities, and temporal attention where ``attention``."""
    with evaluating(model):
        yield from map(decide, windows_of_samples(model, batches, device, attention))


def windows_of_samples(
    model: Grounder, batches: Iterable[Batch], device: torch.device, attention: bool = False
) -> Iterator[list[Window]]:
    """The windows of each sample, in order."""
    if device.type == "cpu" and model.encoders is None:
        hold_memory()
    windows = (window for batch in batches for window in read_windows(model, batch.to(device), attention))
    for _, of_sample in groupby(windows, key=lambda w: w.sample.sample_id):
        yield list(of_sample)


@contextmanager
def evaluating(model: Grounder) -> Iterator[None]:
    """Evaluation mode inside the context; the previous mode is restored afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
