"""When every frame of a video is shown: frame numbers ↔ seconds, by the file's presentation time stamps.

A rate is what comes of it. Rates that containers state are guesses (a browser's recording says 1000), and a video with a
pause, or of a phone, has no one rate.
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
"""By how much two rates, or durations, may differ and still be called equal."""
REORDERING = 16
"""Steps by which a stamp of presentation may fall behind those before it in the order of decoding."""
LEAP = 10.0
"""Seconds a broadcast's stamps may go ahead in one step; beyond it they belong to another recording."""


@dataclass(frozen=True, eq=False)
class Clock:
    """Presentation times of all frames of a video, in seconds since its first frame came up."""

    starts: FloatArray
    """(n,) when each frame comes up: ascending, the first 0."""
    end: float
    """When the last frame goes."""
    step: float
    """The usual time from one frame to the next: the median."""

    @classmethod
    def steady(cls, frames: int, rate: float) -> Clock:
        """Of a video that has the same rate all the time."""
        return cls(np.arange(frames) / rate, frames / rate, 1 / rate)

    @classmethod
    def of(
        cls, shown: FloatArray, order: FloatArray, last: float, slack: float = 0.5, leap: float = np.inf
    ) -> Clock | None:
        """From stamps in seconds, NaN where there is none: (n,) of presentation in any order.

        ``order``: (n,) stamps that ascend within one recording, such as those of decoding. Where they fall by more than
        ``slack`` steps the next of several joined recordings begins, as it does where stamps go ahead by more than
        ``leap`` seconds; it follows at once. ``last``: how long the last frame is shown; what is too short to be true (a
        guess of the container) is not believed. None when the stamps do not tell one frame from another.
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
        """When a frame comes up, fractions in between; the number of frames stands for the end of the last one."""
        return float(np.interp(frame, np.arange(len(self.starts) + 1), np.append(self.starts, self.end)))

    def fits(self, rate: float) -> bool:
        """Whether frames and duration agree with a rate."""
        return same(rate, self.rate)


def same(a: float, b: float) -> bool:
    """Whether two rates or durations are equal but for rounding, and for what tools write of them."""
    return abs(a - b) <= TOLERANCE * max(a, b)


def _filled(stamps: FloatArray, others: FloatArray | None = None) -> FloatArray:
    """Missing stamps by those of the same packets in ``others``, or else from their neighbours."""
    stamps = stamps if others is None else np.where(np.isnan(stamps), others, stamps)
    known = np.flatnonzero(~np.isnan(stamps))
    return np.interp(np.arange(len(stamps)), known, stamps[known]) if known.size else np.zeros_like(stamps)


@dataclass(frozen=True)
class Timing:
    """How many frames a video has, and when they are shown."""

    frames: int
    fps: float
    """Average rate: the container's, if it fits frames and duration."""
    clock: Clock


class Stamps:
    """What a stream's packets say of time, noted while they pass."""

    def __init__(self, stream: VideoStream) -> None:
        self.stream = stream
        self.found: list[tuple[int | None, int | None, int | None]] = []

    def noted(self, packets: Iterable[Packet]) -> Iterator[Packet]:
        """The packets; those that are shown are noted."""
        for packet in packets:
            if packet.size and not packet.is_discard:
                self.found.append((packet.pts, packet.dts, packet.duration))
            yield packet

    def timing(self, pictures: Sequence[int | None] | None = None) -> Timing:
        """Of the packets seen; of the ``pictures`` with these stamps, where there are not as many as packets.

        Raises VideoError when neither stamps nor container say how fast the video plays.
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
    """Packets, and whether data of each is missing.

    In a broadcast, FFmpeg calls a packet damaged where a counter jumps. It does so too where two captures were joined; but
    there a key frame follows whose stamp is not just a few pictures ahead, and then nothing is missing.
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
    """Whether the stream's stamps may start again or leap: MPEG-TS, MPEG-PS."""
    flags: int = stream.container.format.flags
    return bool(flags & cast(int, Flags.ts_discont.value))
