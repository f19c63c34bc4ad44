"""Output → tubes: which candidate, from when to when, and its box in pixels at every sampled frame. Never sees targets.

A clip longer than the head was trained for comes as windows that follow each other. Each is run on its own; candidate
and moment are then chosen once, over the slots of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..cache.batch import Batch
from ..cache.sampling import IntArray, span_of_slots
from ..cache.schema import Sample, Tube, View
from .model import FSM


@dataclass(frozen=True)
class Window:
    """What a head says of one window of a sample: N candidate tubes over T slots, in float32 on the CPU."""

    sample: Sample
    view: View
    frames: IntArray
    """(T,) source frames."""
    boxes: Tensor
    """(N, T, 4) cxcywh fractions."""
    span: Tensor
    """(N, T, 2) logits of start and end."""
    score: Tensor | None
    """(N, T) logits."""


def choose_query(score: Tensor | None, frame_padding: Tensor) -> tuple[Tensor, Tensor]:
    """The candidate with the highest mean probability over all real slots (eqs 12, 13): index (B,) and that mean (B,).

    ``score`` (B, N, T) logits, or None where there is one candidate and nothing to choose.
    """
    if score is None:
        rows = torch.zeros(len(frame_padding), dtype=torch.int64, device=frame_padding.device)
        return rows, torch.ones_like(rows, dtype=torch.float32)
    p = score.float().sigmoid().masked_fill(frame_padding[:, None], 0).sum(-1)
    mean, query = (p / (~frame_padding).sum(-1, keepdim=True)).max(-1)
    return query, mean


def choose_span(logits: Tensor, frame_padding: Tensor) -> tuple[Tensor, Tensor]:
    """First and last slot (B, 2) of the likeliest moment, and its log-probability (B,), from (B, T, 2) logits.

    All pairs with start < end compete; a clip of one slot is that slot. Time and memory are linear in T: the best end
    after every start is a running maximum, taken from the back.
    """
    start, end = logits.float().masked_fill(frame_padding[..., None], -torch.inf).log_softmax(1).unbind(-1)
    best, where = (x.flip(1) for x in end.flip(1).cummax(1))  # the best end from every slot on, and where it is
    slots = torch.arange(end.shape[1], device=end.device).expand(end.shape)
    later, last = F.pad(best[:, 1:], (0, 1), value=-torch.inf), F.pad(slots[:, -1:] - where[:, 1:], (0, 1))
    only = (~frame_padding).sum(-1, keepdim=True) == 1
    later, last = torch.where(only, end, later), torch.where(only, slots, last)
    score, first = (start + later).max(1)
    return torch.stack([first, last.gather(1, first[:, None])[:, 0]], dim=-1), score


@torch.no_grad()
def read_windows(model: FSM, batch: Batch) -> list[Window]:
    """What the last decoder layer says of every clip of a batch on the model's device. The model gets the inputs alone."""
    layer = model(batch.inputs).layers[-1]
    boxes, span = layer.boxes.float().cpu(), layer.span.float().cpu()
    score = None if layer.score is None else layer.score.float().cpu()
    found = []
    for b, (sample, view, frames) in enumerate(zip(batch.samples, batch.views, batch.frames, strict=True)):
        T = len(frames)
        scores = None if score is None else score[b, :, :T]
        found.append(Window(sample, view, frames.numpy(), boxes[b, :, :T], span[b, :, :T], scores))
    return found


def join(windows: list[Window]) -> Tube:
    """One decision over all windows of a sample. Raises ValueError when they do not follow each other in time."""
    frames = np.concatenate([w.frames for w in windows])
    sample, view = windows[0].sample, windows[0].view
    if (np.diff(frames) <= 0).any():
        raise ValueError(f"windows of sample {sample.sample_id} overlap or are out of order")
    scores = [w.score for w in windows if w.score is not None]
    real = torch.zeros(1, len(frames), dtype=torch.bool)
    query, score = choose_query(torch.cat(scores, dim=1)[None] if scores else None, real)
    n = int(query)
    spans, _ = choose_span(torch.cat([w.span[n] for w in windows])[None], real)
    start, end = span_of_slots(frames, *spans[0].tolist())
    boxes = torch.cat([w.boxes[n] for w in windows]).numpy().astype(np.float64)
    return Tube(sample.sample_id, start, end, frames, view.to_pixels(boxes), score=float(score), query=n)


def predict(model: FSM, batches: Iterable[Batch], device: torch.device) -> Iterator[Tube]:
    """Tubes of every sample of some batches, in order; the model is put into evaluation mode.

    Clips of one sample that follow each other, in one batch or across several, are its windows.
    """
    was_training = model.training
    model.eval()
    try:
        windows = (window for batch in batches for window in read_windows(model, batch.to(device)))
        for _, of_sample in groupby(windows, key=lambda w: w.sample.sample_id):
            yield join(list(of_sample))
    finally:
        model.train(was_training)
