"""Output → tubes: which candidate, from when to when, and its box in pixels at every sampled frame. Never sees targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from ..cache.batch import Batch
from ..cache.sampling import span_of_slots
from ..cache.schema import Tube
from .model import Grounder, LayerOutput


def choose_query(layer: LayerOutput, frame_padding: Tensor) -> tuple[Tensor, Tensor]:
    """The candidate with the highest mean probability over all real slots (eqs 12, 13): index (B,) and that mean (B,)."""
    if layer.score is None:
        rows = torch.zeros(len(frame_padding), dtype=torch.int64, device=frame_padding.device)
        return rows, torch.ones_like(rows, dtype=torch.float32)
    p = layer.score.float().sigmoid().masked_fill(frame_padding[:, None], 0).sum(-1)
    mean = p / (~frame_padding).sum(-1, keepdim=True)
    score, query = mean.max(-1)
    return query, score


def choose_span(logits: Tensor, frame_padding: Tensor) -> tuple[Tensor, Tensor]:
    """First and last slot (B, 2) of the likeliest moment, and its log-probability (B,), from (B, T, 2) logits.

    All pairs with start < end compete; a clip of one slot is that slot.
    """
    log_p = logits.float().masked_fill(frame_padding[..., None], -torch.inf).log_softmax(1)
    pairs = log_p[:, :, None, 0] + log_p[:, None, :, 1]  # (B, start, end)
    T = pairs.shape[1]
    later = torch.ones(T, T, dtype=torch.bool, device=pairs.device).triu(1)
    single = (~frame_padding).sum(-1) == 1
    allowed = later | (single[:, None, None] & torch.eye(T, dtype=torch.bool, device=pairs.device))
    best, index = pairs.masked_fill(~allowed, -torch.inf).flatten(1).max(-1)
    return torch.stack([torch.div(index, T, rounding_mode="floor"), index % T], dim=-1), best


@torch.no_grad()
def predict_batch(model: Grounder, batch: Batch) -> list[Tube]:
    """One tube per sample of a batch that is on the model's device. The model is given the inputs alone."""
    padding = batch.inputs.frame_padding
    layer = model(batch).layers[-1]
    query, score = choose_query(layer, padding)
    rows = torch.arange(len(query), device=query.device)
    spans, _ = choose_span(layer.span[rows, query], padding)
    boxes = layer.boxes[rows, query].float().cpu().numpy().astype(np.float64)
    tubes = []
    for b, (sample, view) in enumerate(zip(batch.samples, batch.views, strict=True)):
        frames = batch.frames[b].numpy()
        start, end = span_of_slots(frames, *spans[b].tolist())
        pixels = view.to_pixels(boxes[b, : len(frames)])
        tubes.append(Tube(sample.sample_id, start, end, frames, pixels, score=float(score[b]), query=int(query[b])))
    return tubes


def predict(model: Grounder, batches: Iterable[Batch], device: torch.device) -> Iterator[Tube]:
    """Tubes of every sample of some batches, in order; the model is put into evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            yield from predict_batch(model, batch.to(device))
    finally:
        model.train(was_training)
