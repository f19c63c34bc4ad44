"""The answers for a video: moments and boxes, as rows of a table, as a picture, and as lines of a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...cache.sampling import FloatArray, IntArray, interpolate_boxes
from ...cache.schema import Sample, Tube, Video
from ...extract.video.clock import Clock
from ...heads.decision import Moment

if TYPE_CHECKING:
    import pandas
    from PIL import Image

WHAT_SCORES_MEAN = (
    "score: how sure the head is of its candidate tube, from 0 to 1; always 1 of a head that does not score its tubes. "
    "likely: the probability of this moment among all moments of the video.\n"
    "Neither is the chance that the answer is right. Compare them between answers of one head only."
)


@dataclass(frozen=True)
class Answer:
    """The result of a head for one sentence."""

    sentence: str
    tube: Tube
    """The tube of the likeliest moment, with boxes at all slots that the head read."""
    moments: list[Moment]
    """Moments, the likeliest first."""

    def boxes(self, moment: Moment) -> tuple[IntArray, FloatArray]:
        """Every source frame of a moment (n,), and its boxes (n, 4): xyxy in source pixels, rounded to 0.01."""
        frames = np.arange(moment.start, moment.end)
        return frames, interpolate_boxes(self.tube.frames, self.tube.boxes, frames).round(2)


@dataclass(frozen=True)
class Grounding:
    """The answers about a video, in the order of the question's sentences."""

    video: Video
    """Its id is the name in the question: the file's name, or its path below a folder."""
    answers: list[Answer] = field(repr=False)
    clock: Clock | None = field(repr=False)
    """Display time of each frame. None if the file does not exist and its frame rate is not known either."""
    file: Path
    doubts: list[str] = field(default_factory=list, repr=False)
    """Reasons why the scores may mean nothing for this video, as lines to print."""

    def seconds(self, moment: Moment) -> tuple[float, float] | None:
        """Start and end of a moment, in seconds from the start of the video; None if the clock is unknown."""
        return (self.clock.seconds(moment.start), self.clock.seconds(moment.end)) if self.clock else None

    def to_frame(self) -> pandas.DataFrame:
        """One row per moment; ``rank`` 1 is the likeliest moment of a sentence.

        ``start`` and ``end`` are source frames, half-open, and also given in seconds. ``score`` and ``probability``
        follow. ``boxes`` (n, 4), xyxy in source pixels, are the boxes at all ``frames`` (n,) of the moment.
        """
        import pandas

        rows = []
        for answer in self.answers:
            for rank, moment in enumerate(answer.moments, start=1):
                frames, boxes = answer.boxes(moment)
                row = {"sentence": answer.sentence, "rank": rank, **self._span(moment), "score": answer.tube.score}
                rows.append({**row, "frames": frames, "boxes": boxes})
        return pandas.DataFrame(rows)

    def show(self, number: int = 0) -> Image.Image:
        """Draw the answer to sentence ``number``: frames of the video with its boxes. Notebooks show the image."""
        from ..picture import answer_strip

        answer, video = self.answers[number], self.video
        whole = (0, video.frame_count)
        sample = Sample(number, video, answer.sentence, "", "", whole, (0, 0), np.empty((0, 4)), "")
        return answer_strip(self.file, sample, answer.tube)

    def lines(self, first: int = 1) -> list[dict[str, Any]]:
        """The lines of predictions.jsonl, one per sentence. ``first``: the number of the first sentence."""
        return [self._line(number, answer) for number, answer in enumerate(self.answers, start=first)]

    def _line(self, number: int, answer: Answer) -> dict[str, Any]:
        best, *others = (
            {**self._span(m), "boxes": dict(zip(*(a.tolist() for a in answer.boxes(m)), strict=True))}
            for m in answer.moments
        )
        facts = {"sample_id": number, "video": self.video.video_id, "sentence": answer.sentence, "fps": self._fps}
        return {**facts, "score": answer.tube.score, "query": answer.tube.query, **best, "others": others}

    @property
    def _fps(self) -> float | None:
        return round(self.clock.rate, 4) if self.clock else None

    def _span(self, moment: Moment) -> dict[str, Any]:
        start, end = (round(s, 3) for s in self.seconds(moment)) if self.clock else (None, None)  # type: ignore[union-attr]
        known = {"start": moment.start, "end": moment.end, "start_seconds": start, "end_seconds": end}
        return {**known, "probability": float(f"{moment.probability:.4g}")}
