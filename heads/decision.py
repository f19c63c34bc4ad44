"""Windows → a tube: which candidate, from when to when, and its box in pixels at every sampled frame. Never sees targets.

A clip longer than the head was trained for comes as windows. Each is run on its own; how one decision is made over all of
them is the head's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..cache.sampling import FloatArray, IntArray, span_of_slots
from ..cache.schema import Sample, Tube
from ..cache.view import View


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
    attention: Tensor | None = None
    """(N, T, T) temporal attention of the last decoder layer, rows = the slots that look. Only where it was asked for."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A tube and why: what the chosen candidate says of every slot of the clip."""

    tube: Tube
    start: FloatArray
    """(T,) probability that the moment starts at each slot; they add up to 1."""
    end: FloatArray
    """(T,) probability that it ends with each slot."""
    attention: tuple[FloatArray, ...]
    """Of every window (t, t) temporal attention, rows = the slots that look; windows do not see each other. Empty where it
    was not asked for."""


@dataclass(frozen=True)
class Moment:
    """A span of source frames, half-open, and how likely the head finds it."""

    start: int
    end: int
    probability: float
    """Of its start, times that of its end: from 0 to 1, and 1 over all spans."""


CANDIDATES = 1000
"""Of the slots of a clip, so many of the likeliest starts, and of the likeliest ends, form spans."""
DISTINCT = 0.5
"""Spans that overlap by this IoU or more count as one moment."""


def moments(reading: Reading, count: int) -> list[Moment]:
    """The moment of a reading's tube, and the likeliest further ones: ``count`` in all, fewer where there are no more.

    Non-maximum suppression over start x end probabilities: each next one is the likeliest span with start < end whose
    temporal IoU with every one before it is below `DISTINCT`.
    """
    frames, tube = reading.tube.frames, reading.tube
    start, end = reading.start, reading.end
    first, last = (int(slot) for slot in np.searchsorted(frames, [tube.start, tube.end - 1]))
    found = [Moment(int(tube.start), int(tube.end), float(start[first] * end[last]))]
    starts, ends = (np.sort(np.argsort(-p, kind="stable")[:CANDIDATES]) for p in (start, end))
    likely = np.outer(start[starts], end[ends])
    likely[starts[:, None] >= ends] = 0
    while len(found) < count:
        shared = (np.minimum(ends, last) - np.maximum(starts[:, None], first) + 1).clip(0)
        either = (ends - starts[:, None] + 1) + (last - first + 1) - shared
        likely[shared >= DISTINCT * either] = 0
        best = int(likely.argmax())
        if not likely.flat[best]:
            break
        first, last = int(starts[best // len(ends)]), int(ends[best % len(ends)])
        found.append(Moment(*span_of_slots(frames, first, last), float(likely.flat[best])))
    return found


def choose_query(score: Tensor | None) -> tuple[int, float]:
    """The candidate with the highest mean probability over all slots (eqs 12, 13), and that mean.

    ``score`` (N, T) logits, or None where there is one candidate and nothing to choose.
    """
    if score is None:
        return 0, 1.0
    mean, query = score.sigmoid().mean(-1).max(0)
    return int(query), float(mean)


def choose_span(logits: Tensor) -> tuple[int, int]:
    """First and last slot of the likeliest moment, from (T, 2) logits of start and end.

    All pairs with start < end compete; a clip of one slot is that slot. Linear in T: the best end after every start is a
    running maximum, taken from the back.
    """
    if len(logits) == 1:
        return 0, 0
    start, end = logits.log_softmax(0).unbind(-1)
    best, place = end.flip(0).cummax(0)
    first = int((start[:-1] + best.flip(0)[1:]).argmax())
    return first, len(end) - 1 - int(place.flip(0)[first + 1])


def join(windows: list[Window]) -> Tube:
    """One decision over all windows of a sample. Raises ValueError when they do not follow each other in time."""
    frames = np.concatenate([w.frames for w in windows])
    sample, view = windows[0].sample, windows[0].view
    if (np.diff(frames) <= 0).any():
        raise ValueError(f"windows of sample {sample.sample_id} overlap or are out of order")
    scores = [w.score for w in windows if w.score is not None]
    query, score = choose_query(torch.cat(scores, dim=1) if scores else None)
    first, last = choose_span(torch.cat([w.span[query] for w in windows]))
    start, end = span_of_slots(frames, first, last)
    boxes = torch.cat([w.boxes[query] for w in windows]).numpy().astype(np.float64)
    return Tube(sample.sample_id, start, end, frames, view.to_pixels(boxes), score=score, query=query)


def explain(windows: list[Window]) -> Reading:
    """The decision of `join` and the evidence beside it; attention only of windows that were read with theirs."""
    tube = join(windows)
    query = tube.query or 0
    start, end = torch.cat([w.span[query] for w in windows]).softmax(0).double().numpy().T
    attention = tuple(w.attention[query].double().numpy() for w in windows if w.attention is not None)
    return Reading(tube, start, end, attention)
