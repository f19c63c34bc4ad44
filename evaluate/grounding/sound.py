"""The sound of a video, written to the same output as its pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.audio.frame import AudioFrame

log = logging.getLogger(__name__)

RATE = 48_000


class Sound:
    """The first audio stream of a file, written as AAC, mono or stereo, to an output that also gets pictures.

    Second 0 is the time of the first picture; earlier sound is left out. If the sound does not decode, it ends there
    with a warning. A file without audio gets no sound.
    """

    def __init__(self, source: Path, out: av.container.OutputContainer) -> None:
        self.source, self.out = source, out
        self.input = av.open(str(source))
        self.stream: Any = None
        if self.input.streams.audio:
            found = self.input.streams.audio[0]
            layout = "mono" if found.channels == 1 else "stereo"
            self.stream = out.add_stream("aac", rate=RATE, layout=layout)
            self.resampler = av.AudioResampler(format="fltp", layout=layout, rate=RATE)
            self.frames = self._decoded()
            self.ahead: AudioFrame | None = next(self.frames, None)

    def copy(self, until: float, last: bool = False) -> None:
        """Write the sound before second ``until``. ``last``: nothing follows; flush the encoder."""
        if self.stream is None:
            return
        while self.ahead is not None and (self.ahead.time or 0) < until:
            self.out.mux(self.stream.encode(self.ahead))
            self.ahead = next(self.frames, None)
        if last:
            self.out.mux(self.stream.encode(None))

    def close(self) -> None:
        self.input.close()

    def _decoded(self) -> Iterator[AudioFrame]:
        """Audio frames from the first picture on, at the output's sample rate."""
        try:
            with av.open(str(self.source)) as pictures:
                first = next(pictures.decode(video=0)).time or 0.0
            late = round(first * RATE)
            for frame in self.input.decode(audio=0):
                for part in self.resampler.resample(frame):
                    if part.pts is not None and part.pts >= late:
                        part.pts, part.time_base = part.pts - late, Fraction(1, RATE)
                        yield part
        except (av.error.FFmpegError, StopIteration) as error:
            log.warning("%s: its sound does not decode to the end, and stops there (%s)", self.source, error)
