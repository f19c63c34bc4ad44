"""Checked values of a prediction: numbers, boxes, frames. The reader of a format supplies the location of a fault."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...cache.sampling import FloatArray, IntArray
from ...errors import PredictionError

Fault = Callable[..., PredictionError]
"""Makes an error from a field, a message and facts."""

FRAME = re.compile(r"0|[1-9][0-9]{0,8}")


def fault_at(path: str | Path, place: str) -> Fault:
    """Makes the errors of one line or one sample of a file."""

    def fault(field: str, message: str, **facts: object) -> PredictionError:
        where = f"{path}, {place}" + (f", {field}" if field else "")
        return PredictionError(f"{where}: {message}", effect="nothing was scored", **facts)

    return fault


def read_number(value: object, name: str, fault: Fault) -> float:
    if type(value) not in (int, float):
        raise fault(name, "not a number", expected="a number", found=shown(value))
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise fault(name, "not finite", expected="a finite number", found=shown(value))
    return number


def read_boxes(value: object, fault: Fault, name: str = "boxes", first: int = 0) -> tuple[IntArray, FloatArray]:
    """Frames (n,), 0-based and sorted in ascending order, and boxes (n, 4) xyxy.

    ``value``: boxes by frame number; the numbers start at ``first``.
    """
    expected = f'an object such as {{"{90 + first}": [x1, y1, x2, y2]}}'
    if not isinstance(value, dict):
        raise fault(name, "not an object", expected=expected, found=shown(value))
    if not value:
        raise fault(name, "no box at all", expected=expected, found="{}")
    for key, box in value.items():
        if not FRAME.fullmatch(key) or int(key) < first:
            wanted = f'{first}-based source frames: "{first}", "{first + 1}", …'
            raise fault(name, "not a frame number", expected=wanted, found=shown(key))
        if not (isinstance(box, list) and len(box) == 4 and {*map(type, box)} <= {int, float}):
            raise fault(f"{name}[{key}]", "not a box", expected="four numbers [x1, y1, x2, y2]", found=shown(box))
    frames = np.fromiter(map(int, value), dtype=np.int64, count=len(value))
    try:
        boxes = np.array(list(value.values()), dtype=np.float64)
    except OverflowError:
        raise fault(name, "a coordinate is not finite", expected="finite pixels", found="a huge integer") from None
    for wrong, message, wanted in (
        (~np.isfinite(boxes).all(-1), "a coordinate is not finite", "finite pixels"),
        ((boxes[:, 2:] < boxes[:, :2]).any(-1), "the box ends before it begins", "x1 <= x2 and y1 <= y2"),
    ):
        if wrong.any():
            row = int(wrong.argmax())
            raise fault(f"{name}[{frames[row]}]", message, expected=wanted, found=shown(boxes[row].tolist()))
    order = np.argsort(frames)
    return frames[order] - first, boxes[order]


def shown(value: object) -> str:
    """A value as JSON, shortened for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"
