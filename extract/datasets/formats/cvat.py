"""CVAT's XML 1.1 (``--format cvat``), as "CVAT for video" writes it: tracks of boxes, of one task, job or project.

Frames count from 0 in the video file, also where a task takes only every n-th. A box lasts, on a straight line, until the
next one of its track; from one with ``outside="1"`` on the object is gone until the next. The last box of a track that does
not end so lasts until the task ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ....cache.sampling import FloatArray
from ....errors import AnnotationError, UsageError
from ..validate import LARGEST, describe
from .box_table import ended
from .model import Clip, Rows, Source, Track, turned
from .xml_events import Attributes, parse_xml

SIDES = ("xtl", "ytl", "xbr", "ybr")
SHAPES = ("polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton")
SENTENCE = ("sentence", "caption", "description")
"""Names of an attribute that holds what is said about an object."""
TASKS = ("task", "job")


def read(path: Path) -> Source:
    """An ``annotations.xml``, or a folder with one for each task. Raises AnnotationError, UsageError."""
    files = [path] if path.is_file() else sorted([*path.rglob("*.xml"), *path.rglob("*.xml.gz")])
    if not files:
        raise UsageError(
            f"no XML file in {path}", expected="annotations.xml, as in CVAT's export", hint="unpack the export"
        )
    source = Source()
    for file in files:
        _File(file, source).read()
    if not source.tracks and source.left_out[STILLS]:
        raise UsageError(
            f"{path} has boxes of single images alone, and nothing says which are of one object",
            effect="nothing was written",
            hint='draw tracks in CVAT, and export the task as "CVAT for video 1.1"',
        )
    return source


STILLS = "boxes of single images, which are of no track"


@dataclass
class _File:
    """One file while it is read."""

    file: Path
    source: Source
    where: list[str] = field(default_factory=list)
    """The elements that are open."""
    facts: dict[str, str] = field(default_factory=dict)
    """What the task that is open says of itself, by element."""
    tasks: dict[str, dict[str, str]] = field(default_factory=dict)
    track: Attributes | None = None
    rows: Rows = field(default_factory=Rows)
    gone: set[int] = field(default_factory=set)
    attribute: str = ""
    sentence: str = ""
    found: list[tuple[Attributes, Rows, set[int], str]] = field(default_factory=list)

    def read(self) -> None:
        parse_xml(self.file, self.open, self.close, "CVAT's XML")
        if not self.found and not self.tasks and not self.source.left_out[STILLS]:
            raise AnnotationError(self.file, None, "", "neither a task nor a track", expected="CVAT's XML 1.1")
        self.tasks = self.tasks or {"": {}}
        clips = {number: self._add_clip(facts) for number, facts in self.tasks.items()}
        for attributes, rows, gone, sentence in self.found:
            number = attributes.get("task_id", next(iter(clips)) if len(clips) == 1 else "")
            if number not in clips:
                raise AnnotationError(
                    self.file, f"track {attributes.get('id')}", "task_id", "no such task", found=number
                )
            self._add_track(clips[number], self.tasks[number], attributes, rows, gone, sentence)

    def open(self, name: str, attributes: Attributes, line: int) -> None:
        self.where.append(name)
        if name in TASKS and "meta" in self.where:
            self.facts = {}
        elif name == "track":
            self.track, self.rows, self.gone, self.sentence = attributes, Rows(attributes.get("label", "")), set(), ""
        elif name == "attribute":
            self.attribute = attributes.get("name", "").lower()
        elif name == "box" and self.track is not None:
            self._add_box(attributes, line)
        elif name == "box" and "image" in self.where:
            self.source.left_out[STILLS] += 1
        elif name in SHAPES and "skeleton" not in self.where[:-1] and (self.track is not None or "image" in self.where):
            self.source.left_out[f"shapes of kind {name}"] += 1

    def close(self, name: str, text: str) -> None:
        self.where.pop()
        if name == "track" and self.track is not None:
            self.found.append((self.track, self.rows, self.gone, self.sentence))
            self.track = None
        elif name == "attribute" and self.track is not None and self.attribute in SENTENCE:
            self.sentence = self.sentence or " ".join(text.split())
        elif name in TASKS and "meta" in self.where:
            self.tasks[self.facts.get("id", str(len(self.tasks)))] = self.facts
        elif "meta" in self.where and text and self.where[-1] in (*TASKS, "original_size"):
            self.facts.setdefault(name, text)
        elif self.where[-1:] == ["meta"] and name == "source" and text:
            for facts in self.tasks.values():
                facts.setdefault(name, text)

    def _add_box(self, attributes: Attributes, line: int) -> None:
        assert self.track is not None
        frame = self._number(attributes, "frame", line)
        if frame != int(frame) or not 0 <= frame <= LARGEST:
            raise self._fault(line, "frame", "not a frame number", attributes)
        if attributes.get("outside", "0") not in ("0", "1"):
            raise self._fault(line, "outside", "neither 0 nor 1", attributes)
        if attributes.get("outside") == "1":
            self.gone.add(int(frame))
            return
        box = [self._number(attributes, side, line) for side in SIDES]
        degrees = self._number(attributes, "rotation", line) if "rotation" in attributes else 0.0
        self.rows.add(int(frame), [*box, degrees])

    def _number(self, attributes: Attributes, name: str, line: int) -> float:
        try:
            value = float(attributes[name])
        except (KeyError, ValueError):
            value = np.nan
        if not abs(value) <= LARGEST:
            raise self._fault(line, name, "not a number", attributes)
        return value

    def _fault(self, line: int, name: str, message: str, attributes: Attributes) -> AnnotationError:
        where = f"line {line}, track {(self.track or {}).get('id')}, {name}"
        return AnnotationError(self.file, None, where, message, found=describe(attributes.get(name)))

    def _add_clip(self, facts: dict[str, str]) -> str:
        names = [facts[key] for key in ("source", "name") if facts.get(key)]
        stem = self.file.name.removesuffix(".gz").removesuffix(".xml")
        names += [self.file.absolute().parent.name if stem == "annotations" else stem]
        sides = [facts.get(side, "") for side in ("width", "height")]
        size = (int(sides[0]), int(sides[1])) if all(s.isascii() and s.isdecimal() for s in sides) else None
        self.source.add_clip(self.file, Clip(names[0], tuple(names[1:]), None, size))
        return names[0]

    def _add_track(
        self, clip: str, task: dict[str, str], attributes: Attributes, rows: Rows, gone: set[int], sentence: str
    ) -> None:
        if not rows.frames:
            self.source.left_out["tracks without a box"] += 1
            return
        last, stop = max(rows.frames), task.get("stop_frame", "")
        if stop.isascii() and stop.isdecimal() and last < int(stop) <= LARGEST and not any(g > last for g in gone):
            gone = {*gone, int(stop) + 1}
        name = attributes.get("id") or str(len(self.source.tracks))
        arrays = ended(rows, gone).arrays(self.file, f"track {name}")
        self.source.tracks.append(Track(clip, name, rows.label, *arrays, in_pixels, sentence or None))


def in_pixels(boxes: FloatArray, width: int, height: int) -> FloatArray:
    """xyxy and degrees (n, 5), turned about the middle of the box → (n, 4) xyxy."""
    return turned(boxes[:, :4], boxes[:, 4], (boxes[:, :2] + boxes[:, 2:4]) / 2)
