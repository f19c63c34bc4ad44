"""A summary of a head's training data, which tells whether a video or sentence is unlike it, and a summary of its
settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from ..cache.index import Cache
from ..cache.schema import Video
from ..wording import counted
from .presets import presets
from .settings import Experiment, load_experiment
from .training.resumption import FREE, different

SLACK = 1.5
"""A size or length is unlike training where it is this many times below the smallest or above the largest."""
UNKNOWN = 1 / 3
"""A sentence is unlike training where at least this share of its words was in no training sentence."""
NAMED = 4
UNTOLD = (*FREE, "train.seed", "train.accumulate")
"""Settings that do not change the head, or that the run chooses itself."""
Range = tuple[float, float]


@dataclass(frozen=True)
class Seen:
    """A summary of a head's training data."""

    dataset: str
    split: str
    videos: int
    samples: int
    side: Range
    """Shorter side of the videos in pixels: the smallest and the largest."""
    seconds: Range
    """Length of the searched segment in seconds: the shortest and the longest."""
    words: str
    """The distinct words of the sentences: lower case, sorted, separated by spaces."""

    @classmethod
    def of(cls, cache: Cache, split: str, rows: Sequence[int]) -> Self:
        """The summary of some samples of a cache. ``rows``: their rows in its table, at least one."""
        table, sentences = cache.samples, [cache.samples.sentence(row) for row in rows]
        videos = {table.video_ids[row]: table.video(row) for row in rows}
        sides = [min(video.width, video.height) for video in videos.values()]
        lengths = table.columns["segment_end"] - table.columns["segment_start"]
        seconds = [float(lengths[row] / table.video(row).fps) for row in rows]
        words = sorted({word for sentence in dict.fromkeys(sentences) for word in words_of(sentence)})
        ranges = (min(sides), max(sides)), (min(seconds), max(seconds))
        return cls(cache.annotations.dataset, split, len(videos), len(sentences), *ranges, " ".join(words))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """From the output of `dataclasses.asdict`."""
        return cls(**{**stored, "side": tuple(stored["side"]), "seconds": tuple(stored["seconds"])})

    def __str__(self) -> str:
        side, seconds = (
            "{:.3g} to {:.3g}".format(*ends) if ends[0] < ends[1] else f"{ends[0]:.3g}"
            for ends in (self.side, self.seconds)
        )
        data = f"{self.dataset} {self.split}: {counted(self.videos, 'video')}, {counted(self.samples, 'sentence')}"
        words = counted(len(self.words.split()), "different word")
        return f"{data} of {words}, {seconds} s, shorter side {side} pixels"

    def unlike(self, video: Video, seconds: float | None, sentences: Sequence[str]) -> list[str]:
        """The ways in which a video and sentences are unlike the training data, one line each."""
        found = []
        if not _near(side := min(video.width, video.height), self.side):
            found.append(f"its shorter side has {side} pixels")
        if seconds is not None and not _near(seconds, self.seconds):
            found.append(f"it lasts {seconds:.3g} s")
        known = set(self.words.split())
        for sentence in sentences:
            words = list(dict.fromkeys(words_of(sentence)))
            new = [word for word in words if word not in known]
            if words and len(new) >= UNKNOWN * len(words):
                some = ", ".join(new[:NAMED]) + (", …" if len(new) > NAMED else "")
                found.append(f"{len(new)} of {counted(len(words), 'word')} were in no sentence of training: {some}")
        return found


def nearest_preset(experiment: Experiment) -> str:
    """A summary of settings: the shipped preset with the fewest differences, and the differences."""
    found = {name: different(asdict(load_experiment(name)), asdict(experiment)) for name in presets()}
    found = {name: {k: v for k, v in of.items() if k not in UNTOLD} for name, of in found.items()}
    name, differing = min(found.items(), key=lambda item: len(item[1]))
    some = ", ".join(f"{setting} {value}" for setting, (_, value) in list(differing.items())[:NAMED])
    more = ", …" if len(differing) > NAMED else ""
    others = f", but {counted(len(differing), 'setting')}: {some}{more}" if differing else ""
    return f"{experiment.model.head}, preset {name}{others}"


def words_of(sentence: str) -> list[str]:
    """The words of a sentence, in lower case."""
    return re.findall(r"\w+", sentence.lower())


def _near(value: float, known: Range) -> bool:
    return known[0] / SLACK <= value <= known[1] * SLACK
