"""Label Studio's JSON export of video object tracking (``--format label-studio``): key frames, in percent of the picture.

A region's ``sequence`` lists key frames, counted from 1. After an enabled one the box goes on a straight line to the next
key frame, or stays as it is until the end of the video; after one that is not enabled there is none until the next. Frames
are numbered at the rate of the project's <Video> tag, whatever the file's own is: ``framesCount`` says how many that makes.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from ....cache.sampling import FloatArray
from ....errors import UsageError
from ..json_file import read_json
from ..validate import LARGEST, Fields, describe
from .model import Clip, Rows, Source, Track, turned
from .videos import SUFFIXES

UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts in front of the name of an uploaded file."""
KIND = "videorectangle"


def read(path: Path) -> Source:
    """Raises AnnotationError; UsageError for a folder."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder", expected="the file that Label Studio exports as JSON")
    content, _ = read_json(path, repeated_keys=True)
    tasks = Fields.of({"tasks": content if isinstance(content, list) else [content]}, path, None).children("tasks")
    source = Source()
    for task in tasks:
        _read_task(source, task)
    return source


def _read_task(source: Source, task: Fields) -> None:
    if "annotations" not in task.values:
        hint = "choose JSON, not JSON-MIN or another format, when exporting"
        raise task.fault("annotations", "missing", expected="a task of a JSON export", hint=hint)
    finished = [a for a in task.children("annotations") if not a.values.get("was_cancelled")]
    if not finished:
        source.left_out["tasks without an annotation"] += 1
        return
    _count(source, "further annotations of a task, of which the first is taken", len(finished) - 1)
    regions = [r for r in finished[0].children("result") if str(r.values.get("type", "")).lower() == KIND]
    _count(source, "results that are no box of a video", len(finished[0].values["result"]) - len(regions))
    name, also = _names(task)
    counts = {r.child("value").integer("framesCount", 1) for r in regions if "framesCount" in r.child("value").values}
    if len(counts) > 1:
        raise task.fault("framesCount", "not the same in all regions", found=", ".join(map(str, sorted(counts))))
    count = next(iter(counts), None)
    seconds = next((v.positive("duration") for r in regions if (v := r.child("value")).values.get("duration")), None)
    source.add_clip(task.file, Clip(name, also, count, by_time=True, seconds=seconds if count else None))
    for number, region in enumerate(regions):
        if (track := _track(region, name, str(region.values.get("id") or number), count)) is not None:
            source.tracks.append(track)
        else:
            source.left_out["tracks without a box"] += 1


def _count(source: Source, what: str, number: int) -> None:
    if number:
        source.left_out[what] += number


def _track(region: Fields, clip: str, name: str, count: int | None) -> Track | None:
    value = region.child("value")
    labels = value.values.get("labels")
    rows = Rows(str(labels[0]) if isinstance(labels, list) and labels else "")
    keys = sorted(value.children("sequence"), key=lambda key: key.integer("frame", 1))
    for key in keys:
        box = [_number(key, side) for side in ("x", "y", "width", "height")]
        rows.add(key.integer("frame", 1) - 1, [*box, _number(key, "rotation", 0.0)], _enabled(key))
    if not rows.frames:
        return None
    if count is not None and rows.joined[-1] and rows.frames[-1] < count - 1:
        rows.add(count - 1, rows.boxes[-1])
    texts = region.child("meta").values.get("text") if isinstance(region.values.get("meta"), dict) else None
    sentence = " ".join(str(texts[0]).split()) if isinstance(texts, list) and texts else None
    region.whole_characters("meta", f"{rows.label}{sentence}{name}")
    frames, boxes, joined = rows.arrays(region.file, f"{clip}, region {name}")
    return Track(clip, name, rows.label, frames, boxes, joined, in_pixels, sentence or None)


def in_pixels(boxes: FloatArray, width: int, height: int) -> FloatArray:
    """[x, y, width, height, degrees] (n, 5) in percent, turned about the corner (x, y) → (n, 4) xyxy in pixels."""
    scale = np.array([width, height, width, height]) / 100
    x, y, w, h = (boxes[:, :4] * scale).T
    return turned(np.stack([x, y, x + w, y + h], axis=1), boxes[:, 4], np.stack([x, y], axis=1))


def _enabled(key: Fields) -> bool:
    enabled = key.values.get("enabled", True)
    if not isinstance(enabled, bool):
        raise key.fault("enabled", "neither true nor false", found=describe(enabled))
    return enabled


def _number(key: Fields, name: str, default: float | None = None) -> float:
    value = key.values.get(name, default)
    if type(value) not in (int, float) or not abs(value) <= LARGEST:  # type: ignore[arg-type]
        raise key.fault(name, "not a number", expected="percent of the picture", found=describe(value))
    return float(value)  # type: ignore[arg-type]


def _names(task: Fields) -> tuple[str, tuple[str, ...]]:
    """What the video of a task is called: the name in its address, without what an upload puts in front of it."""
    data = task.child("data").values
    texts = [text for text in data.values() if isinstance(text, str) and text.strip()]
    named = [t for t in texts if PurePosixPath(_file_of(t)).suffix.lower() in SUFFIXES]
    address: Any = named[0] if named else data.get("video") or next(iter(texts), None)
    if not isinstance(address, str):
        raise task.fault("data", "names no video", expected='{"video": "…/street.mp4"}', found=describe(data))
    name = PurePosixPath(_file_of(task.whole_characters("data", address))).name
    short = UPLOADED.sub("", name)
    return (name, ()) if short == name else (short, (name,))


def _file_of(address: str) -> str:
    """The path in an address: an upload's, a cloud's, or ``/data/local-files/?d=…``."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    local = parse_qs(parts.query).get("d")
    return local[0] if local else unquote(parts.path) or address
