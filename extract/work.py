"""What an extraction is told, and what it tells: options, shares of the videos, progress, the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

from .launchers.parts import Part
from .video.decoders import Settings

STAGES = ("decode", "encode", "write")


@dataclass(frozen=True)
class Options:
    """How to work; nothing here changes what is stored, but for the last bits that follow ``batch_frames``."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_frames: int = 32
    """Frames encoded at once, of as many videos as it takes."""
    text_batch: int = 64
    strict: bool = False
    """Stop at the first video that cannot be read instead of listing it."""
    retry_skipped: bool = False
    part: Part = field(default_factory=Part)
    decoding: Settings = field(default_factory=Settings)


class Progress(Protocol):
    """Told after every video; ``stages``: how much of the time each stage was busy, 0 to 1."""

    def __call__(self, video_id: str, frames: int, skipped: str | None, stages: dict[str, float]) -> None: ...

    def frames(self, count: int) -> None:
        """Told after every batch: so many frames more went through the backbone."""


@dataclass
class Report:
    """What one run of the extractor did."""

    videos: int = 0
    """Of which nothing was there."""
    topped_up: int = 0
    """To which frames or regions were added."""
    frames: int = 0
    """Decoded for either."""
    already: int = 0
    sentences: int = 0
    """Computed now."""
    skipped: dict[str, str] = field(default_factory=dict)
    outdated: dict[str, str] = field(default_factory=dict)
    """Complete videos whose features are of another file than is there now, or damaged, and what to do."""
    warnings: list[str] = field(default_factory=list)
    """In what extracted videos differ from their annotations."""
    busy: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Seconds of each stage; decoding is averaged over its processes."""
    ended: int = 0
    """The signal by which it was asked to end before all was done; 0: it was not."""
    elapsed: float = 0.0
    """Seconds the three stages ran side by side, text and set-up aside."""

    def shares(self) -> dict[str, float]:
        """How much of the time each stage was busy; the one that limits is near 1."""
        return {stage: seconds / max(self.elapsed, 1e-9) for stage, seconds in self.busy.items()}

    def add(self, other: Report) -> None:
        """Count in what another process did meanwhile."""
        self.videos += other.videos
        self.topped_up += other.topped_up
        self.sentences += other.sentences
        self.frames += other.frames
        self.already += other.already
        self.skipped |= other.skipped
        self.outdated |= other.outdated
        self.warnings += [w for w in other.warnings if w not in self.warnings]
        self.ended = self.ended or other.ended
        self.elapsed += other.elapsed
        self.busy = {stage: self.busy[stage] + other.busy[stage] for stage in STAGES}
