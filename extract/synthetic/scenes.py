"""Types of synthetic scenes: coloured shapes with exact boxes, their events, and the settings of a dataset."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ...cache.sampling import IntArray
from ...errors import UsageError

COLOURS = {"red": (225, 35, 35), "green": (35, 175, 55), "blue": (45, 80, 235), "yellow": (245, 220, 35), "pink": (240, 70, 205), "cyan": (35, 215, 220)}  # fmt: skip  # noqa: E501
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = {"small": (0.19, 0.22), "": (0.23, 0.27), "big": (0.29, 0.34)}
"""Side of an object as a fraction of the picture's short side. '' is medium; sentences name no size for it."""
DIRECTIONS = {"moves_left": (-1, 0), "moves_right": (1, 0), "moves_up": (0, -1), "moves_down": (0, 1)}
PREDICATES = (*DIRECTIONS, "grows", "striped", "flashes", "next_to")
NEAR = 0.08
"""Two objects are next to each other when the gap between their boxes is at most this fraction of the short side."""


@dataclass(frozen=True)
class SyntheticConfig:
    """Settings of a synthetic dataset. Equal settings give equal datasets."""

    train: int = 400
    val: int = 60
    test: int = 60
    seed: int = 0
    width: int = 160
    height: int = 120
    fps: float = 10.0
    """Frames per second in the VidSTG format. HC-STVG clips last 20 s by definition."""
    frames: tuple[int, int] = (48, 64)
    """Fewest and most frames of a video. HC-STVG clips have at least 100 to 120."""
    objects: tuple[int, int] = (3, 4)
    colours: tuple[str, ...] = tuple(COLOURS)
    shapes: tuple[str, ...] = SHAPES
    predicates: tuple[str, ...] = PREDICATES
    """Possible kinds of event; a video shows as many kinds as it has objects."""
    scale: float = 1.0
    """Factor on the object sizes of `SIZES`."""
    paraphrase: bool = True
    """Use several wordings for the same kind of event."""
    jobs: int = 1
    """Processes that make videos. The dataset does not depend on it."""

    def __post_init__(self) -> None:
        (fewest, most), sides = self.frames, (self.width, self.height)
        allowed = {
            "split sizes of at least 0": min(self.train, self.val, self.test) >= 0,
            "even width and height of at least 96": min(sides) >= 96 and not any(side % 2 for side in sides),
            "fps above 0": self.fps > 0,
            "frames of at least 48, fewest first": 48 <= fewest <= most,
            "3 to 5 objects, fewest first": 3 <= self.objects[0] <= self.objects[1] <= 5,
            "known colours and shapes, two of each or more": _known(self.colours, COLOURS)
            and _known(self.shapes, SHAPES),
            "known predicates, one per object or more": _known(self.predicates, PREDICATES)
            and len(self.predicates) >= self.objects[1],
            "a scale from 0.5 to 1.5": 0.5 <= self.scale <= 1.5,
            "at least 1 job": self.jobs >= 1,
        }
        for expected, holds in allowed.items():
            if not holds:
                raise UsageError("these settings make no synthetic dataset", expected=expected, found=self)


def _known(chosen: tuple[str, ...], known: Collection[str]) -> bool:
    return len(chosen) == len(set(chosen)) >= 2 and set(chosen) <= set(known)


@dataclass(frozen=True)
class Event:
    """An event of object ``subject`` in frames [start, end). ``other``: the neighbour of a next_to event, else None.

    ``passing``: the approach to, or departure from, a neighbour. It is a movement too, so no other sentence may match
    it.
    """

    subject: int
    predicate: str
    start: int
    end: int
    other: int | None = None
    passing: bool = False


@dataclass(frozen=True, eq=False)
class Thing:
    """One object. ``boxes``: (frames, 4) int64 pixels xyxy, the exact bounds of its drawing, inside the picture."""

    colour: str
    shape: str
    size: str
    boxes: IntArray


@dataclass(frozen=True, eq=False)
class Scene:
    """The complete plan of one video. An object's id is its index in ``things``."""

    width: int
    height: int
    frame_count: int
    things: tuple[Thing, ...]
    events: tuple[Event, ...]
    render_seed: int


def gaps(a: IntArray, b: IntArray) -> IntArray:
    """Pixels between boxes (…, 4) along the axis that separates them more; negative where they overlap: (…,)."""
    apart = np.maximum(a[..., :2] - b[..., 2:], b[..., :2] - a[..., 2:])
    return np.maximum(apart[..., 0], apart[..., 1])
