"""Collation: read the features of clips and pad them to a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...errors import CacheError
from ..sampling import FloatArray, IntArray, slots_in
from .batch import Batch, Inputs, Targets
from .clips import Clip, FrameSet, Rendition
from .reading import FeatureReader


def collate(clips: Sequence[Clip], reader: FeatureReader, with_targets: bool) -> Batch:
    """Read the features of clips and pad them to one batch. Frames that clips share are read once."""
    lengths = [len(c.frames) for c in clips]
    B, T = len(clips), max(lengths)
    frame_padding = torch.arange(T)[None] >= torch.tensor(lengths)[:, None]
    seen = [c.rendition or reader.evaluation(c.sample.video) for c in clips]
    of_rendition: dict[Rendition, list[IntArray]] = {}
    for rendition, clip in zip(seen, clips, strict=True):
        of_rendition.setdefault(rendition, []).append(clip.frames)
    parts = [FrameSet(rendition, np.unique(np.concatenate(frames))) for rendition, frames in of_rendition.items()]
    maps, cell_padding, live = reader.frames(parts)
    ends = np.cumsum([len(p.frames) for p in parts]).tolist()
    place = {p.rendition: (end - len(p.frames), p.frames) for p, end in zip(parts, ends, strict=True)}
    frame_index = torch.zeros(B, T, dtype=torch.int64)
    for b, (rendition, clip) in enumerate(zip(seen, clips, strict=True)):
        offset, frames = place[rendition]
        rows = torch.from_numpy(np.searchsorted(frames, clip.frames) + offset)
        frame_index[b] = rows[0]
        frame_index[b, : len(rows)] = rows
    tokens, token_padding = reader.tokens(clips)
    return Batch(
        samples=[c.sample for c in clips],
        sentences=[c.sentence for c in clips],
        views=[rendition.view for rendition in seen],
        frames=[torch.from_numpy(c.frames) for c in clips],
        inputs=Inputs(maps, cell_padding, frame_index, frame_padding, tokens, token_padding),
        targets=_targets(clips, seen, T, reader) if with_targets else None,
        live=live,
    )


def _targets(clips: Sequence[Clip], seen: Sequence[Rendition], T: int, reader: FeatureReader) -> Targets:
    boxes, in_moment = np.zeros((len(clips), T, 4)), np.zeros((len(clips), T), dtype=bool)
    spans, inside = [], []
    for b, (clip, rendition) in enumerate(zip(clips, seen, strict=True)):
        slots = np.flatnonzero(slots_in(clip.frames, clip.sample.moment))
        boxes[b, slots] = _boxes(clip, rendition, clip.frames[slots], reader)
        in_moment[b, slots] = True
        spans.append((slots[0], slots[-1]))
        inside.append(FrameSet(rendition, clip.frames[slots]))
    regions, maps = reader.targets(clips, inside)
    return Targets(
        boxes=torch.from_numpy(boxes).float(),
        in_moment=torch.from_numpy(in_moment),
        span=torch.tensor(np.array(spans), dtype=torch.int64),
        size=torch.tensor([(r.view.width, r.view.height) for r in seen]),
        regions=regions,
        maps=maps,
    )


def _boxes(clip: Clip, rendition: Rendition, frames: IntArray, reader: FeatureReader) -> FloatArray:
    """Target boxes (n, 4) cxcywh in fractions of the view. Raises CacheError if the view does not show one of them."""
    boxes = rendition.view.to_fractions(clip.sample.boxes_at(frames))
    if not (boxes[:, 2:] > 0).all():
        raise CacheError(
            f"{reader.cache.path}: a view of video {rendition.video.video_id} does not show the target",
            sample=clip.sample.sample_id,
            found=f"frames {frames[~(boxes[:, 2:] > 0).all(1)][:5].tolist()}",
            hint="extract again: the annotations changed after the views were drawn",
        )
    return boxes
