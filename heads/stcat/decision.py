"""Decoding of passes: each has every ``passes``-th slot and decides separately. The moment is the hull of their
moments."""

from __future__ import annotations

import numpy as np
import torch

from ...cache.sampling import IntArray, span_of_slots
from ...cache.schema import Tube
from ..decision import Reading, Window, choose_span


def passes_of(windows: list[Window]) -> list[list[Window]]:
    """The windows of every pass: a new pass starts where the frames go back in time."""
    found: list[list[Window]] = []
    for window in windows:
        if found and window.frames[0] > found[-1][-1].frames[-1]:
            found[-1].append(window)
        else:
            found.append([window])
    return found


def join_passes(windows: list[Window]) -> Tube:
    """One tube from all passes over a sample: each box at its own frame, from the earliest start to the latest end.

    Boxes are clipped at the left and top of the frame only, as in the published code.
    """
    frames, order = merged(windows)
    moments = []
    for of_pass in passes_of(windows):
        seen = np.concatenate([w.frames for w in of_pass])
        moments.append(span_of_slots(seen, *choose_span(torch.cat([w.span[0] for w in of_pass]))))
    boxes = torch.cat([w.boxes[0] for w in windows])[order].numpy().astype(np.float64)
    start, end = min(start for start, _ in moments), max(end for _, end in moments)
    sample, view = windows[0].sample, windows[0].view
    return Tube(sample.sample_id, start, end, frames, view.to_pixels(boxes, beyond=True), score=1.0, query=0)


def explain_passes(windows: list[Window]) -> Reading:
    """The decision of `join_passes`, and the evidence for it. There is no attention between slots of different
    passes."""
    _, order = merged(windows)
    found = [torch.cat([w.span[0] for w in of_pass]).softmax(0) for of_pass in passes_of(windows)]
    spans = torch.cat(found)[order].double() / len(found)
    looks = [w.attention[0] for w in windows if w.attention is not None]
    attention = (torch.block_diag(*looks)[order][:, order].double().numpy(),) if looks else ()
    start, end = spans.numpy().T
    return Reading(join_passes(windows), start, end, attention)


def merged(windows: list[Window]) -> tuple[IntArray, IntArray]:
    """The frames of all passes in ascending order, and the permutation that sorts them. Raises ValueError for repeated
    frames."""
    frames = np.concatenate([w.frames for w in windows])
    order = frames.argsort(kind="stable")
    if (np.diff(frames[order]) <= 0).any():
        raise ValueError(f"passes over sample {windows[0].sample.sample_id} share a frame")
    return frames[order], order
