"""Prediction files: JSON lines with one sample per line, or a format of another project.

    {"sample_id": 17, "start": 90, "end": 150, "boxes": {"90": [x1, y1, x2, y2], ...}}

``sample_id``: VidSTG's running number, or HC-STVG's file name. ``start`` and ``end``: source frames, half-open. They
may be fractional, inverted or outside the clip, and are scored unchanged. ``boxes``: box in source pixels by source
frame. Boxes may be missing: a scored frame without a box gets one by linear interpolation between the given frames.
Before the first and after the last given frame, the box is constant. ``score`` and ``query`` are read; other keys are
ignored. `prediction_formats` reads the files of other projects.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..atomic import open_atomic
from ..cache.schema import Sample, Tube
from ..errors import PredictionError
from .prediction_formats.content import is_torch_file, lines_of, load_torch, without_repeats
from .prediction_formats.fields import Fault, fault_at, read_boxes, read_number, shown
from .prediction_formats.numbering import ScoredSplit
from .prediction_formats.table import Format, recognise, unknown

Prediction = Tube
"""The output of a head and an entry of a file have the same type."""

LINES = "JSON lines"
FIELDS = ("sample_id", "start", "end", "boxes")


class PredictionFile(NamedTuple):
    """Content of a file, and the name of its format."""

    format: str
    tubes: dict[int | str, Prediction]


def read_predictions(path: str | Path) -> dict[int | str, Prediction]:
    """All predictions of a file of JSON lines, by sample id. Raises PredictionError like `read_prediction_file`."""
    return read_prediction_file(path).tubes


def read_prediction_file(
    path: str | Path, samples: Sequence[Sample] = (), captions_first: Sequence[int] = ()
) -> PredictionFile:
    """All predictions of a file in any known format, gzipped or not, in UTF-8, UTF-16 or UTF-32.

    ``samples``: all samples of the split in annotation order, to which the numbers of other projects refer. For VidSTG,
    ``captions_first`` has the sample_id at each position when captions are numbered before questions.

    Raises PredictionError naming file, line or sample, field, expected and found value. Faults are: malformed JSON, a
    missing or wrongly typed field, a non-finite number, a box that is not four numbers or has its end before its start,
    a sample without boxes, a frame that is not an integer, a repeated sample id, a missing or empty file, an unknown
    format, and a number that means no sample or possibly two.
    """
    split = ScoredSplit(Path(path), samples, captions_first)
    if is_torch_file(path):
        content: Any = load_torch(path)
        found = recognise(content)
    else:
        lines = lines_of(path)
        read, content, found = _foreign(lines)
        if content is None:
            return PredictionFile(LINES, _read_lines(path, itertools.chain(read, lines)))
    if found is None:
        raise unknown(path, content)
    return PredictionFile(found.name, _some(path, found.read(content, split)))


def _foreign(lines: Iterator[bytes | str]) -> tuple[list[bytes | str], Any, Format | None]:
    """Detect a foreign format. Returns the lines read so far, the content and its format.

    The content is None for a file of JSON lines. The format is None if it is unknown.
    """
    read: list[bytes | str] = []
    for line in lines:
        read.append(line)
        if line.strip():
            break
    content = _parsed(read[-1]) if read else None
    if content is not None and (not isinstance(content, dict) or not content or {*FIELDS} & content.keys()):
        return read, None, None  # JSON lines, or a fault in the first line
    rest = list(lines)
    read += rest
    if content is None or any(line.strip() for line in rest):
        content = _parsed((b"" if isinstance(read[0], bytes) else "").join(read)) if read else None  # type: ignore[arg-type]
    return (read, content, recognise(content)) if isinstance(content, dict) else (read, None, None)


def _parsed(text: bytes | str) -> Any:
    """Parsed JSON; None if it is malformed."""
    try:
        return json.loads(text, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError):
        return None


def _some(path: str | Path, tubes: dict[int | str, Prediction]) -> dict[int | str, Prediction]:
    if not tubes:
        raise PredictionError(f"{path} holds no prediction", expected="one JSON object per line, one line per sample")
    return tubes


def _read_lines(path: str | Path, lines: Iterable[bytes | str]) -> dict[int | str, Prediction]:
    first_line: dict[int | str, int] = {}
    predictions: dict[int | str, Prediction] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fault = fault_at(path, f"line {number}")
        prediction = _parse_line(line, fault)
        earlier = first_line.setdefault(prediction.sample_id, number)
        if earlier != number:
            raise fault(
                "sample_id",
                f"sample {prediction.sample_id!r} was predicted before",
                expected="one line per sample",
                found=f"lines {earlier} and {number}",
            )
        predictions[prediction.sample_id] = prediction
    return _some(path, predictions)


def write_predictions(
    path: str | Path, predictions: Iterable[Prediction], samples: Mapping[int | str, Sample] | None = None
) -> int:
    """Write predictions one by one and return their number. The file appears under its name only when it is complete.

    ``samples``: adds the video and the sentence of each prediction, for human readers. Raises PredictionError if a
    prediction is not finite; an existing file then stays unchanged.
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


def _parse_line(line: bytes | str, fault: Fault) -> Prediction:
    try:
        record = json.loads(line, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        hint = "one object per line, no list around them"
        raise fault("", "malformed JSON", expected="one JSON object", found=error, hint=hint) from None
    if not isinstance(record, dict):
        raise fault("", "not a JSON object", expected="an object per line", found=shown(record))
    for name in FIELDS:
        if name not in record:
            raise fault(name, "the field is missing", expected=name, found=", ".join(record) or "an empty object")
    if type(record["sample_id"]) not in (int, str):
        raise fault("sample_id", "not an id", expected="an integer or a string", found=shown(record["sample_id"]))
    frames, boxes = read_boxes(record["boxes"], fault)
    query = record.get("query")
    if query is not None and type(query) is not int:
        raise fault("query", "not an integer", expected="an integer or null", found=shown(query))
    return Prediction(
        record["sample_id"],
        read_number(record["start"], "start", fault),
        read_number(record["end"], "end", fault),
        frames,
        boxes,
        score=None if record.get("score") is None else read_number(record["score"], "score", fault),
        query=query,
    )
