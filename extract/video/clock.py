"""Convert between frame numbers and seconds, using the file's presentation time stamps.

The frame rate is computed from the stamps. A rate that a container states is a guess (browser recordings state 1000),
and videos of phones, or with pauses, have no constant rate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import cast

import numpy as np
from av.format import Flags
from av.packet import Packet
from av.video.stream import VideoStream

from ...cache.sampling import FloatArray
from ...errors import VideoError

TOLERANCE = 0.02
"""Relative difference up to which two rates, or two durations, count as equal."""
REORDERING = 16
"""Steps by which a presentation stamp may be lower than an earlier one in decoding order."""
LEAP = 10.0
"""Largest step, in seconds, between two stamps of a broadcast; after a larger one a new recording begins."""


@dataclass(frozen=True, eq=False)
class Clock:
    """Presentation times of all frames of a video, in seconds from the start of its first frame."""

    starts: FloatArray
    """(n,) when each frame is first shown: ascending, the first is 0."""
    end: float
    """When the last frame ends."""
    step: float
    """Median time from one frame to the next."""

    @classmethod
    def steady(cls, frames: int, rate: float) -> Clock:
        """The clock of a video with a constant rate."""
        return cls(np.arange(frames) / rate, frames / rate, 1 / rate)

    @classmethod
    def of(
        cls, shown: FloatArray, order: FloatArray, last: float, slack: float = 0.5, leap: float = np.inf
    ) -> Clock | None:
        """The clock of presentation stamps ``shown``: (n,) seconds in any order, NaN where a stamp is missing.

        ``order``: (n,) stamps that ascend within one recording, such as decoding stamps. A file may consist of several
        joined recordings. A new one begins where ``order`` falls by more than ``slack`` steps, or where stamps increase
        by more than ``leap`` seconds; it starts right after the previous one ends. ``last``: duration of the last frame
        in seconds; below half a step it is a wrong guess of the container, and one step is used instead. Returns None
        if no two stamps differ.
        """
        shown, order = _filled(shown, order), _filled(shown if np.isnan(order).all() else order)
        steps = np.diff(order)
        if not (steps > 0).any():
            return None
        step = float(np.median(steps[steps > 0]))
        parts = [np.sort(part) for part in np.split(shown, 1 + np.flatnonzero(steps < -slack * step))]
        steps = np.concatenate([np.append(np.diff(part), step) for part in parts])
        starts = np.append(0.0, np.cumsum(np.where(steps > leap, step, steps)[:-1]))
        return cls(starts, float(starts[-1] + (last if last >= step / 2 else step)), step)

    @property
    def rate(self) -> float:
        """Frames per second, on average."""
        return len(self.starts) / self.end

    def seconds(self, frame: float) -> float:
        """When a frame is first shown; fractions are interpolated, the number of frames gives the video's end."""
        return float(np.interp(frame, np.arange(len(self.starts) + 1), np.append(self.starts, self.end)))

    def fits(self, rate: float) -> bool:
        """Whether the average rate equals ``rate``, within TOLERANCE."""
        return same(rate, self.rate)


def same(a: float, b: float) -> bool:
    """Whether two rates or durations are equal within TOLERANCE (rounding, and the guesses that tools write)."""
    return abs(a - b) <= TOLERANCE * max(a, b)


def _filled(stamps: FloatArray, others: FloatArray | None = None) -> FloatArray:
    """Replace missing stamps (NaN) by those of the same packets in ``others``, or interpolate between neighbours."""
    stamps = stamps if others is None else np.where(np.isnan(stamps), others, stamps)
    known = np.flatnonzero(~np.isnan(stamps))
    return np.interp(np.arange(len(stamps)), known, stamps[known]) if known.size else np.zeros_like(stamps)


@dataclass(frozen=True)
class Timing:
    """How many frames a video has, and when they are shown."""

    frames: int
    fps: float
    """Average rate, frames per second: the container's, if it fits frames and duration."""
    clock: Clock


class Stamps:
    """Collects the time stamps of a stream's packets."""

    def __init__(self, stream: VideoStream) -> None:
        self.stream = stream
        self.found: list[tuple[int | None, int | None, int | None]] = []

    def noted(self, packets: Iterable[Packet]) -> Iterator[Packet]:
        """Pass packets through; record the stamps of those that are shown."""
        for packet in packets:
            if packet.size and not packet.is_discard:
                self.found.append((packet.pts, packet.dts, packet.duration))
            yield packet

    def timing(self, pictures: Sequence[int | None] | None = None) -> Timing:
        """The timing of the recorded packets.

        ``pictures``: presentation stamps of the decoded pictures, used instead if their number differs from that of the
        packets. Raises VideoError if neither stamps nor container give a rate.
        """
        stream = self.stream
        frames = len(self.found if pictures is None else pictures)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        clock = self._clock(pictures) or (Clock.steady(frames, rate) if rate and frames else None)
        if clock is None:
            raise VideoError(f"{stream.container.name} does not say when its frames are shown", expected="time stamps")
        return Timing(frames, rate if clock.fits(rate) else clock.rate, clock)

    def _clock(self, pictures: Sequence[int | None] | None) -> Clock | None:
        if not self.found:
            return None
        base = float(self.stream.time_base or 1)
        shown, order, durations = np.array(self.found, dtype=np.float64).T * base
        last = durations[-1] if np.isnan(shown).all() else durations[np.nanargmax(shown)]
        if pictures is not None and len(pictures) != len(shown):
            shown = order = np.array(pictures, dtype=np.float64) * base
        slack = REORDERING if order is shown or np.isnan(order).all() else 0.5
        leap = LEAP if is_broadcast(self.stream) else np.inf
        return Clock.of(shown, order, float(np.nan_to_num(last)), slack, leap)


def with_damage(packets: Iterable[Packet], stream: VideoStream) -> Iterator[tuple[Packet, bool]]:
    """Each packet, and whether some of its data is missing.

    In a broadcast, FFmpeg marks a packet as damaged where a continuity counter jumps. The counter also jumps where two
    captures were joined, and there no data is missing. A joint is recognised by the key frame that follows: its stamp
    is lower than the one before, far ahead of it, or at most 1.5 steps after it.
    """
    coming, ahead, step = iter(packets), deque[Packet](), 0
    before: int | None = None
    broadcast, leap = is_broadcast(stream), LEAP / float(stream.time_base or 1)
    while (packet := ahead.popleft() if ahead else next(coming, None)) is not None:
        damaged = packet.is_corrupt
        if damaged and broadcast:
            ahead += islice(coming, 2 - len(ahead))
            near = [p for p in (packet, *ahead) if p.dts is not None]
            gaps = [(b.dts or 0) - (a.dts or 0) for a, b in pairwise(near) if b.is_keyframe]
            damaged = not any(gap < 0 or gap > leap or gap <= 1.5 * step for gap in gaps)
        if packet.dts is not None:
            step = packet.dts - before if before is not None and packet.dts > before else step
            before = packet.dts
        yield packet, damaged


def is_broadcast(stream: VideoStream) -> bool:
    """Whether the container format allows stamps to restart or jump: MPEG-TS, MPEG-PS."""
    flags: int = stream.container.format.flags
    return bool(flags & cast(int, Flags.ts_discont.value))
