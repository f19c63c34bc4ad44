"""What annotation files of other tools hold: videos, and tracks of boxes. Every reader in this folder returns these.

Frames are counted from 0 here, and boxes are [x1, y1, x2, y2], whatever the file says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ....cache.sampling import FloatArray, IntArray
from ....errors import AnnotationError
from ..validate import LARGEST

InPixels = Callable[[FloatArray, int, int], FloatArray]
"""(boxes (n, …), width, height of the picture) → (n, 4) xyxy in pixels."""


@dataclass(frozen=True)
class Clip:
    """One video, as an annotation file describes it."""

    name: str
    """What the file calls it: a path, a file name with or without suffix."""
    also: tuple[str, ...] = ()
    """Other names that its file may have."""
    frames: int | None = None
    """How many frames the annotation numbers, where it says so."""
    size: tuple[int, int] | None = None
    """Width and height in pixels, where the annotation says so."""
    by_time: bool = False
    """Frames are numbered at a rate of the tool's own, not as they lie in the file."""
    seconds: float | None = None
    """With ``by_time``: how long the ``frames`` last, where the annotation says so."""
    pictures: str | None = None
    """Where the annotation's own pictures lie that a video can be made of: options of ffmpeg."""


@dataclass(frozen=True, eq=False)
class Track:
    """One object of one video."""

    clip: str
    name: str
    """Unique within its video."""
    label: str
    """Its class, or empty."""
    frames: IntArray
    """(n,) ascending, counted from 0."""
    boxes: FloatArray
    """(n, 4) xyxy in pixels; with ``in_pixels`` what that function takes."""
    joined: NDArray[np.bool_] | None = None
    """(n,) whether the boxes between a frame and the next one listed lie on a straight line. None: frames are listed
    without gaps while the object is there."""
    in_pixels: InPixels | None = None
    sentence: str | None = None
    """What the file itself says about the object."""


@dataclass
class Source:
    """Everything an annotation file, or a folder of them, holds."""

    clips: dict[str, Clip] = field(default_factory=dict)
    tracks: list[Track] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """What was not read, in words after a number: ``rows marked as ignored`` → how many."""
    notes: list[str] = field(default_factory=list)
    """How the file was understood, where there are several ways."""

    def add_clip(self, file: Path, clip: Clip) -> None:
        """Raises AnnotationError for a second video of a name."""
        if clip.name in self.clips:
            raise AnnotationError(file, clip.name, "", "the video occurs twice", hint="import the files one by one")
        self.clips[clip.name] = clip


@dataclass
class Rows:
    """The boxes of one track while a file is read."""

    label: str = ""
    frames: list[int] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    joined: list[bool] = field(default_factory=list)

    def add(self, frame: int, box: list[float], joined: bool = True) -> None:
        self.frames.append(frame)
        self.boxes.append(box)
        self.joined.append(joined)

    def arrays(self, file: Path, record: object) -> tuple[IntArray, FloatArray, NDArray[np.bool_]]:
        """Frames ascending, boxes, joined. Raises AnnotationError for a frame that occurs twice, and for a coordinate
        that is no number of pixels."""
        frames, boxes = np.array(self.frames, dtype=np.int64), np.array(self.boxes, dtype=np.float64)
        order = np.argsort(frames, kind="stable")
        frames, boxes = frames[order], boxes[order].reshape(len(frames), -1)
        if (twice := np.flatnonzero(np.diff(frames) == 0)).size:
            raise AnnotationError(file, record, "", f"frame {frames[twice[0]]} (counted from 0) occurs twice")
        if (bad := np.flatnonzero(~(np.abs(boxes) <= LARGEST).all(axis=1))).size:
            found = f"{boxes[bad[0]].tolist()} at frame {frames[bad[0]]} (counted from 0)"
            raise AnnotationError(file, record, "", "a coordinate that is no number of pixels", found=found)
        return frames, boxes, np.array(self.joined, dtype=bool)[order]


def from_size(box: list[float]) -> list[float]:
    """[x, y, width, height] → [x1, y1, x2, y2]."""
    x, y, width, height = box
    return [x, y, x + width, y + height]


def turned(boxes: FloatArray, degrees: FloatArray, about: FloatArray) -> FloatArray:
    """The smallest upright boxes (n, 4) around boxes (n, 4) xyxy that are turned clockwise about points (n, 2)."""
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] - about[:, None]
    sine, cosine = np.sin(np.radians(degrees))[:, None], np.cos(np.radians(degrees))[:, None]
    x, y = corners[..., 0], corners[..., 1]
    moved = np.stack([x * cosine - y * sine, x * sine + y * cosine], axis=-1) + about[:, None]
    upright = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
    return np.where((degrees == 0)[:, None], boxes, upright)
