"""The test_results.json (or .pt) of STCAT, CG-STVG and their forks: a box for every frame, sampled or not.

{"predictions": {"17": {"90": [[x1, y1, x2, y2]], …}, …}, "video_predictions": …, "vid2names": …, "vid2sents": …}
"""

from __future__ import annotations

from typing import Any

from ...cache.schema import Tube
from .fields import shown
from .numbering import ScoredSplit
from .results import BOXES, block_of, tubes_of


def recognise(content: Any) -> bool:
    block = block_of(content)
    first: Any = next(iter(block[BOXES].values()), {}) if block else None
    return isinstance(first, dict) and "boxes" not in first


def read(content: Any, split: ScoredSplit) -> dict[int | str, Tube]:
    """Raises PredictionError naming the sample and the field."""
    block = block_of(content)
    assert block is not None
    boxes = {}
    for key, per_frame in block[BOXES].items():
        if not isinstance(per_frame, dict):
            expected = '{"90": [[x1, y1, x2, y2]], …}'
            raise split.fault(key)(BOXES, "not boxes by frame", expected=expected, found=shown(per_frame))
        boxes[key] = {frame: _only(listed) for frame, listed in per_frame.items()}
    return tubes_of(content, boxes, split, captions_first=True)


def _only(listed: Any) -> Any:
    """The box in a list of one box. Some forks store the box without the list."""
    return listed[0] if isinstance(listed, list) and len(listed) == 1 else listed
