"""Decoding: windows → a tube, which is a candidate, a start, an end, and a box in pixels at every sampled frame.

A clip longer than the head's maximum is divided into windows. The head runs on each window separately; how it combines
them into one decision depends on the head. Targets are not used.
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
    """A head's output on one window of a sample: N candidate tubes over T slots, in float32 on the CPU."""

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
    """(N, T, T) temporal attention of the last decoder layer, rows = queries. None unless requested."""
    inside: Tensor | None = None
    """(T,) logits that a slot is inside the moment; see `inside_of`. None for a head whose starts and ends decide
    alone."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A tube and the evidence for it: the chosen candidate's probabilities at every slot of the clip."""

    tube: Tube
    start: FloatArray
    """(T,) probability that the moment starts at each slot; the sum is 1."""
    end: FloatArray
    """(T,) probability that the moment ends at each slot; the sum is 1."""
    attention: tuple[FloatArray, ...]
    """The temporal attention (t, t) of every window, rows = queries. There is none between windows. Empty unless
    requested."""
    inside: FloatArray | None = None
    """(T,) logits that a slot is inside the moment, see `inside_of`; where they decide too."""


@dataclass(frozen=True)
class Moment:
    """A half-open span of source frames, and its probability."""

    start: int
    end: int
    probability: float
    """The start's probability times the end's, and times that of every slot to be inside or outside where the head
    weighs it; in [0, 1]. The sum over all pairs of slots is 1."""


CANDIDATES = 1000
"""Spans are formed from this many most likely starts and ends of a clip."""
DISTINCT = 0.5
"""Spans whose IoU is at least this count as one moment."""


def moments(reading: Reading, count: int) -> list[Moment]:
    """The moment of a reading's tube, then the most likely others: ``count`` in all, fewer where no more exist.

    Non-maximum suppression over the probabilities of spans: each next one is the most likely span with start < end
    whose temporal IoU with every earlier one is below `DISTINCT`.
    """
    frames, tube = reading.tube.frames, reading.tube
    start, end = log_probabilities(reading)
    first, last = (int(slot) for slot in np.searchsorted(frames, [tube.start, tube.end - 1]))
    found = [Moment(int(tube.start), int(tube.end), float(np.exp(start[first] + end[last])))]
    starts, ends = (np.sort(np.argsort(-log_p, kind="stable")[:CANDIDATES]) for log_p in (start, end))
    likely = start[starts][:, None] + end[ends]  # logarithms: products over many slots underflow
    likely[starts[:, None] >= ends] = -np.inf
    while len(found) < count:
        shared = (np.minimum(ends, last) - np.maximum(starts[:, None], first) + 1).clip(0)
        either = (ends - starts[:, None] + 1) + (last - first + 1) - shared
        likely[shared >= DISTINCT * either] = -np.inf
        best = int(likely.argmax())
        if likely.flat[best] == -np.inf:
            break
        first, last = int(starts[best // len(ends)]), int(ends[best % len(ends)])
        found.append(Moment(*span_of_slots(frames, first, last), float(np.exp(likely.flat[best]))))
    return found


def log_probabilities(reading: Reading) -> tuple[FloatArray, FloatArray]:
    """Two (T,) arrays: the sum of the first at a start and the second at an end is the span's log-probability.

    Where slots inside count too, the sum over all pairs with start <= end is 1, else over all pairs.
    """
    with np.errstate(divide="ignore"):
        start, end = np.log(reading.start), np.log(reading.end)
    if reading.inside is None:
        return start, end
    up_to = np.cumsum(reading.inside)
    start, end = start - (up_to - reading.inside), end + up_to
    return start - np.logaddexp.reduce(np.logaddexp.accumulate(start) + end), end


def choose_query(score: Tensor | None) -> tuple[int, float]:
    """The candidate with the highest mean probability over all slots (eqs 12, 13), and that mean.

    ``score`` (N, T) logits, or None where there is only one candidate.
    """
    if score is None:
        return 0, 1.0
    mean, query = score.sigmoid().mean(-1).max(0)
    return int(query), float(mean)


def choose_span(logits: Tensor, inside: Tensor | None = None) -> tuple[int, int]:
    """First and last slot of the most likely moment, from (T, 2) logits of start and end.

    Maximises over all pairs with start < end; a clip of one slot gives (0, 0). ``inside`` (T,): logits that a slot is
    inside the moment. A span's probability is then the product of its start's, its end's, and of every slot's to be
    inside or outside as the span says. Linear in T: the best end after every start is a running maximum from the back.
    """
    if len(logits) == 1:
        return 0, 0
    start, end = logits.log_softmax(0).unbind(-1)
    if inside is not None:
        up_to = inside.double().cumsum(0)
        start, end = start - (up_to - inside), end + up_to
    best, place = end.flip(0).cummax(0)
    first = int((start[:-1] + best.flip(0)[1:]).argmax())
    return first, len(end) - 1 - int(place.flip(0)[first + 1])


def join(windows: list[Window]) -> Tube:
    """One decision over all windows of a sample. Raises ValueError where windows overlap or are out of order."""
    frames = np.concatenate([w.frames for w in windows])
    sample, view = windows[0].sample, windows[0].view
    if (np.diff(frames) <= 0).any():
        raise ValueError(f"windows of sample {sample.sample_id} overlap or are out of order")
    scores = [w.score for w in windows if w.score is not None]
    query, score = choose_query(torch.cat(scores, dim=1) if scores else None)
    first, last = choose_span(torch.cat([w.span[query] for w in windows]), inside_of(windows))
    start, end = span_of_slots(frames, first, last)
    boxes = torch.cat([w.boxes[query] for w in windows]).numpy().astype(np.float64)
    return Tube(sample.sample_id, start, end, frames, view.to_pixels(boxes), score=score, query=query)


def explain(windows: list[Window]) -> Reading:
    """The decision of `join`, and the evidence for it. Attention is included only for windows that have it."""
    tube = join(windows)
    query = tube.query or 0
    start, end = torch.cat([w.span[query] for w in windows]).double().softmax(0).numpy().T
    attention = tuple(w.attention[query].double().numpy() for w in windows if w.attention is not None)
    inside = inside_of(windows)
    return Reading(tube, start, end, attention, None if inside is None else inside.double().numpy())


def inside_of(windows: list[Window]) -> Tensor | None:
    """(T,) of all windows, minus their mean: heads tell the frames of a clip apart better than those of two clips."""
    found = [w.inside for w in windows if w.inside is not None]
    return torch.cat(found) - torch.cat(found).mean() if found else None
