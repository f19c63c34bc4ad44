"""TubeDETR's log_stats.json, written by an evaluation with --test: a box for every sampled frame.

{"test_vidstg_vidstg": {"predictions": {"17_90": {"boxes": [[x1, y1, x2, y2]]}, …}, "video_predictions": …}, …}

A key consists of a sample's number, "_" and a source frame.
"""

from __future__ import annotations

from typing import Any

from ...cache.schema import Tube
from .fields import shown
from .numbering import ScoredSplit
from .results import BOXES, block_of, tubes_of


def recognise(content: Any) -> bool:
    block = block_of(content)
    first = next(iter(block[BOXES].items()), None) if block else None
    return first is not None and isinstance(first[1], dict) and "boxes" in first[1]


def read(content: Any, split: ScoredSplit) -> dict[int | str, Tube]:
    """Raises PredictionError naming the sample and the field."""
    block = block_of(content)
    assert block is not None
    boxes: dict[str, dict[str, Any]] = {}
    for key, value in block[BOXES].items():
        number, underscore, frame = key.rpartition("_")
        listed = value.get("boxes") if isinstance(value, dict) else None
        if not underscore:
            expected = "a sample's number, _ and a frame"
            raise split.fault(key)(BOXES, "no frame in the key", expected=expected, found=shown(key))
        if not (isinstance(listed, list) and len(listed) == 1):
            raise split.fault(number)(
                f"{BOXES}[{frame}]", "not one box", expected='{"boxes": [[x1, y1, x2, y2]]}', found=shown(value)
            )
        boxes.setdefault(number, {})[frame] = listed[0]
    return tubes_of(content, boxes, split, captions_first=False)
