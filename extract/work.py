"""Input and output of an extraction: options, progress calls, the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

from ..stop import Interrupted
from .launchers.parts import Part
from .video.decoders import Settings

STAGES = ("decode", "encode", "write")


@dataclass(frozen=True)
class Options:
    """Options of a run. They do not change stored features, except that the last bits depend on ``batch_frames``."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_frames: int = 32
    """Frames encoded at once; a batch may mix videos."""
    text_batch: int = 64
    strict: bool = False
    """Stop at the first video that cannot be read instead of listing it."""
    retry_skipped: bool = False
    part: Part = field(default_factory=Part)
    decoding: Settings = field(default_factory=Settings)


class Progress(Protocol):
    """Called after every video. ``stages``: fraction of the time that each stage was busy, 0 to 1."""

    def __call__(self, video_id: str, frames: int, skipped: str | None, stages: dict[str, float]) -> None: ...

    def frames(self, count: int) -> None:
        """Called after every batch, with the number of frames it encoded."""


@dataclass
class Report:
    """The results of one run."""

    videos: int = 0
    """Videos extracted for the first time."""
    topped_up: int = 0
    """Videos to which frames or regions were added."""
    frames: int = 0
    """Frames whose features were written for these videos."""
    already: int = 0
    """Videos that were complete before, or are in ``outdated``."""
    sentences: int = 0
    """Sentences encoded in this run."""
    skipped: dict[str, str] = field(default_factory=dict)
    outdated: dict[str, str] = field(default_factory=dict)
    """Video id → error text, for complete videos whose features are damaged or were extracted from another file."""
    warnings: list[str] = field(default_factory=list)
    """Differences of extracted videos from their annotations."""
    busy: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Seconds of each stage; decoding is averaged over its processes."""
    ended: int = 0
    """The signal that ended the run before all was done; 0: none."""
    asked: int = 0
    """The signal that asked the run to end, also where all was done by then; 0: none."""
    elapsed: float = 0.0
    """Seconds in which the three stages ran, without text encoding and set-up."""

    def shares(self) -> dict[str, float]:
        """Fraction of the time that each stage was busy; the bottleneck is near 1."""
        return {stage: seconds / max(self.elapsed, 1e-9) for stage, seconds in self.busy.items()}

    def raise_if_asked(self) -> None:
        """Raises Interrupted if a signal asked the run to end: for callers that would go on with what it made."""
        if self.ended or self.asked:
            raise Interrupted(self.ended or self.asked)

    def add(self, other: Report) -> None:
        """Add the report of another process."""
        self.videos += other.videos
        self.topped_up += other.topped_up
        self.sentences += other.sentences
        self.frames += other.frames
        self.already += other.already
        self.skipped |= other.skipped
        self.outdated |= other.outdated
        self.warnings += [w for w in other.warnings if w not in self.warnings]
        self.ended = self.ended or other.ended
        self.asked = self.asked or other.asked
        self.elapsed += other.elapsed
        self.busy = {stage: self.busy[stage] + other.busy[stage] for stage in STAGES}
