"""Common part of the results of TubeDETR, STCAT and CG-STVG. Boxes and moments are stored separately.

    {"predictions": …boxes…, "video_predictions": {"17": {"sted": [start, end], "qtype": "declarative"}, …}, …}

``sted``: source frames, half-open. Boxes: xyxy in source pixels. Frames: 0-based. All are as in JSON lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...cache.schema import Sample, Tube
from ...errors import PredictionError
from .fields import read_boxes, read_number, shown
from .numbering import LINES, Said, ScoredSplit, samples_of

BOXES, MOMENTS = "predictions", "video_predictions"


def block_of(content: Any) -> dict[str, Any] | None:
    """The object with the predictions: the file itself, or an entry of it, where TubeDETR stores metrics beside it."""
    blocks = blocks_of(content)
    return next(iter(blocks.values()), None)


def blocks_of(content: Any) -> dict[str, dict[str, Any]]:
    """Every object of a file that holds predictions, by its key. The key is empty if it is the file itself."""
    if not isinstance(content, dict):
        return {}
    if isinstance(content.get(BOXES), dict):
        return {"": content}
    return {k: v for k, v in content.items() if isinstance(v, dict) and isinstance(v.get(BOXES), dict)}


def tubes_of(
    content: Any, boxes: Mapping[str, dict[str, Any]], split: ScoredSplit, *, captions_first: bool
) -> dict[int | str, Tube]:
    """One tube per sample of a file. ``boxes``: boxes by frame, for each number of the file.

    Raises PredictionError naming the sample and the field.
    """
    blocks = blocks_of(content)
    if len(blocks) > 1:
        raise PredictionError(
            f"{split.path} holds the results of several datasets",
            expected="one",
            found=", ".join(blocks),
            effect="nothing was scored",
            hint="keep one of these entries in the file",
        )
    (block,) = blocks.values()
    moments = block.get(MOMENTS)
    if not isinstance(moments, dict):
        raise PredictionError(
            f"{split.path} holds boxes and no moments",
            expected=f"{MOMENTS}: start and end of every sample",
            found=", ".join(list(block)[:8]),
            effect="nothing was scored",
            hint=LINES,
        )
    for key in [*boxes, *moments]:
        if key not in moments:
            raise split.fault(key)(MOMENTS, "there are boxes and no moment", expected="an entry for every sample")
        if key not in boxes:
            raise split.fault(key)(BOXES, "there is a moment and no box", expected="a box in every sampled frame")
    samples = samples_of(_said(block, moments), split, captions_first=captions_first)
    return {samples[key].sample_id: _tube(key, boxes[key], moments[key], samples[key], split) for key in moments}


def _said(block: Mapping[str, Any], moments: Mapping[str, Any]) -> dict[str, Said]:
    """What a file states about each sample. A video name equal to the sample's number, as in some forks, is ignored."""
    names, sentences = (found if isinstance(found := block.get(k), dict) else {} for k in ("vid2names", "vid2sents"))
    found = {}
    for key, moment in moments.items():
        kind = moment.get("qtype") if isinstance(moment, dict) else None
        texts = [x if isinstance(x, str) and x != key else None for x in (kind, sentences.get(key), names.get(key))]
        found[key] = Said(*texts)
    return found


def _tube(key: str, boxes: dict[str, Any], moment: Any, sample: Sample, split: ScoredSplit) -> Tube:
    fault = split.fault(key)
    span = moment.get("sted") if isinstance(moment, dict) else None
    if not (isinstance(span, list) and len(span) == 2):
        found = shown(moment)
        raise fault(f"{MOMENTS}.sted", "not a moment", expected="[start, end) in source frames", found=found)
    start, end = (read_number(x, f"{MOMENTS}.sted", fault) for x in span)
    frames, coordinates = read_boxes(boxes, fault, BOXES)
    return Tube(sample.sample_id, start, end, frames, coordinates)
