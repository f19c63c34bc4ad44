"""The answers for a video: moments and boxes, as rows of a table, as a picture, and as lines of a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...atomic import open_atomic
from ...cache.sampling import FloatArray, IntArray, interpolate_boxes
from ...cache.schema import Sample, Tube, Video
from ...errors import PredictionError
from ...extract.video.clock import Clock
from ...heads.decision import Moment

if TYPE_CHECKING:
    import pandas
    from PIL import Image

WHAT_SCORES_MEAN = (
    "score: how sure the head is of its candidate tube, from 0 to 1; always 1 of a head with one candidate. likely: the "
    "probability of this start times that of this end.\nNeither is the chance that the answer is right. Compare them "
    "between answers of one head only."
)
PREDICTIONS = "predictions.jsonl"


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


def write_answers(out: Path, found: Iterable[Grounding], draw: Callable[[Grounding, list[Path]], None] | None) -> Path:
    """Write ``out``/predictions.jsonl: one line per sentence, numbered from 1 over all videos.

    The file appears when it is complete. Files of an earlier run in ``out`` are removed just before the first answer is
    written. ``draw``: writes the annotated videos of a grounding to the given files, ``out``/1.mp4 and so on; None: no
    videos. Raises PredictionError for a non-finite answer.
    """
    number, rest = 0, iter(found)
    first = list(islice(rest, 1))  # earlier files are kept until there is an answer
    remove_earlier(out)
    with open_atomic(out / PREDICTIONS, text=True) as file:
        for grounding in chain(first, rest):
            lines = grounding.lines(number + 1)
            if draw:
                films = [out / f"{line['sample_id']}.mp4" for line in lines]
                draw(grounding, films)
                lines = [{**line, "film": film.name} for line, film in zip(lines, films, strict=True)]
            file.writelines(map(_as_text, lines))
            number += len(lines)
    return out / PREDICTIONS


def _as_text(line: dict[str, Any]) -> str:
    try:
        return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:
        raise PredictionError(f"the answer to sentence {line['sample_id']} is not finite") from None


def remove_earlier(out: Path) -> None:
    """Remove earlier predictions, and the annotated videos that they name."""
    with suppress(OSError, ValueError):  # a file of another kind names no videos
        for line in (out / PREDICTIONS).read_text(encoding="utf-8").splitlines():
            named = json.loads(line)
            if isinstance(named, dict) and named.get("film") == f"{named.get('sample_id')}.mp4":
                (out / f"{int(named['sample_id'])}.mp4").unlink(missing_ok=True)
        (out / PREDICTIONS).unlink()
