"""The output of `stvg extract`: progress, faults and a summary."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

from ..cache.skipped import SkipList
from ..console import Progress
from ..errors import AnnotationError
from ..objects import Location
from ..wording import counted
from .work import Report

NAMED = 5
"""Number of faults of each kind that are printed; the others are counted."""


class ExtractionProgress:
    """Shows videos done, frames encoded, and how busy each stage is. The stage near 100 % is the bottleneck."""

    def __init__(self, bar: Progress) -> None:
        self.bar, self.encoded, self.skipped = bar, 0, 0
        self.stages: dict[str, float] = {}
        self.start: float | None = None

    def plan(self, text: str) -> None:
        """Print what will be done."""
        self.bar.say(text, err=True)

    def total(self, count: int) -> None:
        self.bar.at(self.bar.done, count)

    def frames(self, count: int) -> None:
        """Count frames that the backbone has encoded."""
        self.start = self.start or time.monotonic()
        self.encoded += count
        self.bar.terms = self._terms()

    def __call__(self, video_id: str, frames: int, skipped: str | None, stages: dict[str, float]) -> None:
        if skipped is not None:
            self.skipped += 1
        elif not frames:  # complete before: does not count for the rate
            self.bar.first += 1
        self.stages = stages
        self.bar.terms = self._terms()
        self.bar.step()

    def _terms(self) -> list[str]:
        seconds = max(time.monotonic() - self.start, 1e-9) if self.start else 1.0
        speed = f"{self.encoded / seconds:.3g} frames/s" if seconds > 1 else ""
        busy = sorted(self.stages.items(), key=lambda stage: -stage[1]) if self.encoded else []
        self.bar.limit = busy[0][0] if busy else ""
        skipped = f"{self.skipped:,} skipped" if self.skipped else ""
        return [f"{self.encoded:,} frames", speed, skipped, *(f"{stage} {share:.0%}" for stage, share in busy)]


def faults_of(report: Report, dropped: Sequence[AnnotationError], out: Location) -> list[str]:
    """Lines on faults: the first few of each kind, and where the complete list is."""
    skipped = f"the complete list is {SkipList(out).path}; --retry-skipped tries these videos again"
    kinds = (
        ("record dropped", list(map(str, dropped)), "stvg dataset check lists them all"),
        ("video skipped", list(report.skipped.values()), skipped),
        ("video replaced", list(report.outdated.values()), "repeat the command to see the next ones"),
        ("warning", sorted(report.warnings), "stvg dataset check --videos lists them all"),
    )
    lines = []
    for kind, found, where in kinds:
        lines += [f"{kind}: {fault}" for fault in found[:NAMED]]
        if len(found) > NAMED:
            lines.append(f"{kind}: {len(found) - NAMED:,} more; {where}")
        elif found and kind == "video skipped":
            lines.append(skipped)
    return lines


def summary_of(report: Report, dropped: Sequence[AnnotationError], out: Location) -> list[str]:
    """Lines on what was done, and on the stage that was the bottleneck."""
    lines = []
    if report.frames:
        shares = report.shares()
        busy = ", ".join(f"{stage} {share:.0%}" for stage, share in shares.items())
        lines.append(f"busy: {busy}; the bottleneck is {max(shares, key=lambda s: shares[s])}")
    already = f"{report.already:,} were there already"
    already += f" ({len(report.outdated):,} of another file)" if report.outdated else ""
    if report.ended:
        name = signal.Signals(report.ended).name
        lines.append(f"ended by {name} before all was done; repeat the command to continue")
    return [
        *lines,
        f"extract: {counted(report.videos, 'video')} done, {report.topped_up:,} topped up "
        f"({counted(report.frames, 'frame')}), {already}, {counted(report.sentences, 'sentence')} computed, "
        f"{len(report.skipped):,} skipped, {counted(len(dropped), 'record')} dropped → {out}",
    ]
