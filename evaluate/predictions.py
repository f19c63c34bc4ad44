"""Predictions as a file: JSON lines, one per sample, ours or anybody's.

    {"sample_id": 17, "start": 90, "end": 150, "boxes": {"90": [x1, y1, x2, y2], ...}}

``sample_id`` is VidSTG's running number or HC-STVG's file name. ``start`` and ``end`` are source frames, half-open;
they may be fractional, inverted or outside the clip, and are scored as they are. ``boxes`` maps source frames to source
pixels. Not every frame needs a box: a frame that is scored and has none is read by linear interpolation between the
frames given, constant before the first and after the last. ``score`` and ``query`` are kept; other keys are for people
and not read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..cache.atomic import open_atomic
from ..cache.errors import PredictionError
from ..cache.sampling import FloatArray, IntArray
from ..cache.schema import Sample, Tube

Prediction = Tube
"""What a head returns and what a file holds are the same thing."""

Fault = Callable[..., PredictionError]

_FRAME = re.compile(r"0|[1-9][0-9]{0,8}")


def read_predictions(path: str | Path) -> dict[int | str, Prediction]:
    """All predictions of a file, by sample id.

    Raises PredictionError naming file, line, field, what was expected and what was found: malformed JSON, a missing or
    wrongly typed field, a number that is not finite, a box that is not four numbers or ends before it begins, no box at
    all, a frame that is not an integer, a sample id given twice, a file that is missing or empty.
    """
    first_line: dict[int | str, int] = {}
    predictions: dict[int | str, Prediction] = {}
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                prediction = _parse_line(line, _fault_at(path, number))
                earlier = first_line.setdefault(prediction.sample_id, number)
                if earlier != number:
                    raise _fault_at(path, number)(
                        "sample_id",
                        f"sample {prediction.sample_id!r} was predicted before",
                        expected="one line per sample",
                        found=f"lines {earlier} and {number}",
                    )
                predictions[prediction.sample_id] = prediction
    except OSError as error:
        raise PredictionError(f"{path} cannot be read", found=error.strerror) from None
    if not predictions:
        raise PredictionError(f"{path} holds no prediction", expected="one JSON object per line, one line per sample")
    return predictions


def write_predictions(
    path: str | Path, predictions: Iterable[Prediction], samples: Mapping[int | str, Sample] | None = None
) -> int:
    """Write predictions as they come; how many there were. The file appears under its name only once it is complete.

    ``samples``: adds the video and the sentence of each prediction, for whoever reads the file.
    Raises PredictionError, and leaves an existing file alone, when a prediction is not finite.
    """
    count = 0
    with open_atomic(Path(path), text=True) as file:
        for prediction in predictions:
            file.write(_format_line(prediction, None if samples is None else samples[prediction.sample_id]))
            count += 1
    return count


def _format_line(prediction: Prediction, sample: Sample | None) -> str:
    record: dict[str, Any] = {"sample_id": prediction.sample_id}
    if sample is not None:
        record |= {"video": sample.video.video_id, "sentence": sample.sentence}
    record |= {"start": _shortest(prediction.start), "end": _shortest(prediction.end)}
    if prediction.score is not None:
        record["score"] = float(prediction.score)
    if prediction.query is not None:
        record["query"] = int(prediction.query)
    record["boxes"] = dict(zip(map(str, prediction.frames.tolist()), prediction.boxes.tolist(), strict=True))
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:
        raise PredictionError(
            f"the prediction for sample {prediction.sample_id!r} is not finite", effect="no file was written"
        ) from None


def _shortest(number: float) -> int | float:
    number = float(number)
    return int(number) if number.is_integer() else number


def _fault_at(path: str | Path, line: int) -> Fault:
    def fault(field: str, message: str, **facts: object) -> PredictionError:
        where = f"{path}, line {line}" + (f", {field}" if field else "")
        return PredictionError(f"{where}: {message}", effect="nothing was scored", **facts)

    return fault


def _parse_line(line: bytes, fault: Fault) -> Prediction:
    try:
        record = json.loads(line, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        hint = "one object per line, no list around them"
        raise fault("", "malformed JSON", expected="one JSON object", found=error, hint=hint) from None
    if not isinstance(record, dict):
        raise fault("", "not a JSON object", expected="an object per line", found=_shown(record))
    for name in ("sample_id", "start", "end", "boxes"):
        if name not in record:
            raise fault(name, "the field is missing", expected=name, found=", ".join(record) or "an empty object")
    if type(record["sample_id"]) not in (int, str):
        raise fault("sample_id", "not an id", expected="an integer or a string", found=_shown(record["sample_id"]))
    frames, boxes = _read_boxes(record["boxes"], fault)
    query = record.get("query")
    if query is not None and type(query) is not int:
        raise fault("query", "not an integer", expected="an integer or null", found=_shown(query))
    return Prediction(
        record["sample_id"],
        _read_number(record, "start", fault),
        _read_number(record, "end", fault),
        frames,
        boxes,
        score=None if record.get("score") is None else _read_number(record, "score", fault),
        query=query,
    )


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} is given twice")
    return found


def _read_number(record: dict[str, Any], name: str, fault: Fault) -> float:
    value = record[name]
    if type(value) not in (int, float):
        raise fault(name, "not a number", expected="a number", found=_shown(value))
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise fault(name, "not finite", expected="a finite number", found=_shown(value))
    return number


def _read_boxes(value: object, fault: Fault) -> tuple[IntArray, FloatArray]:
    """Frames (n,), ascending whatever their order in the file, and boxes (n, 4)."""
    expected = 'an object such as {"90": [x1, y1, x2, y2]}'
    if not isinstance(value, dict):
        raise fault("boxes", "not an object", expected=expected, found=_shown(value))
    if not value:
        raise fault("boxes", "no box at all", expected=expected, found="{}")
    for key, box in value.items():
        if not _FRAME.fullmatch(key):
            raise fault("boxes", "not a frame number", expected='0-based source frames: "0", "1", …', found=_shown(key))
        if not (isinstance(box, list) and len(box) == 4 and {*map(type, box)} <= {int, float}):
            raise fault(f"boxes[{key}]", "not a box", expected="four numbers [x1, y1, x2, y2]", found=_shown(box))
    frames = np.fromiter(map(int, value), dtype=np.int64, count=len(value))
    try:
        boxes = np.array(list(value.values()), dtype=np.float64)
    except OverflowError:
        raise fault("boxes", "a coordinate is not finite", expected="finite pixels", found="a huge integer") from None
    for wrong, message, wanted in (
        (~np.isfinite(boxes).all(-1), "a coordinate is not finite", "finite pixels"),
        ((boxes[:, 2:] < boxes[:, :2]).any(-1), "the box ends before it begins", "x1 <= x2 and y1 <= y2"),
    ):
        if wrong.any():
            row = int(wrong.argmax())
            raise fault(f"boxes[{frames[row]}]", message, expected=wanted, found=_shown(boxes[row].tolist()))
    order = np.argsort(frames)
    return frames[order], boxes[order]


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"
