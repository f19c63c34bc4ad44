"""The answers to what was asked of a video: tubes, as rows of a table, as a picture, as a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..cache.schema import Sample, Tube, Video
from ..extract.video.clock import Clock
from .predictions import write_predictions

if TYPE_CHECKING:
    import pandas
    from PIL import Image


@dataclass(frozen=True)
class Grounding:
    """What was asked of a video, and the answers in the same order."""

    video: Video
    """Its id is the file's name."""
    samples: list[Sample] = field(repr=False)
    tubes: list[Tube] = field(repr=False)
    clock: Clock | None = field(repr=False)
    """When each frame is shown. None: the file is not there, and its rate is not known either."""
    file: Path

    def seconds(self, tube: Tube) -> tuple[float, float] | None:
        """When a tube begins and ends, from the start of the video."""
        return (self.clock.seconds(tube.start), self.clock.seconds(tube.end)) if self.clock else None

    def to_frame(self) -> pandas.DataFrame:
        """A row a sentence: ``start`` and ``end`` in source frames, half-open, and in seconds; ``score``; and the boxes,
        (n, 4) xyxy in source pixels at ``frames`` (n,)."""
        import pandas

        rows = []
        for sample, tube in zip(self.samples, self.tubes, strict=True):
            seconds = dict(zip(("start_seconds", "end_seconds"), self.seconds(tube) or (None, None), strict=True))
            found = {name: getattr(tube, name) for name in ("start", "end", "score", "frames", "boxes")}
            rows.append({"sentence": sample.sentence, **found, **seconds})
        return pandas.DataFrame(rows)

    def show(self, number: int = 0) -> Image.Image:
        """The answer to one of the sentences: frames of the video with its boxes; notebooks display it."""
        from .picture import answer_strip

        return answer_strip(self.file, self.samples[number], self.tubes[number])

    def write(self, out: Path) -> Path:
        """The tubes as ``out``/predictions.jsonl; the folder is made."""
        write_predictions(out / "predictions.jsonl", self.tubes, {s.sample_id: s for s in self.samples})
        return out / "predictions.jsonl"
