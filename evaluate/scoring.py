"""The requests of `stvg evaluate` and `stvg report`, and the scoring."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import AT_LEAST_1, POSITIVE, setting
from ..console import Progress
from ..extract.datasets.table import DATASETS
from ..objects import Location
from ..options import choose_device, say
from ..requested import PROTOCOLS, Request, one_of

if TYPE_CHECKING:
    import torch

    from ..cache.index import Cache
    from ..cache.schema import Sample, Tube
    from .evaluation import Head
    from .metrics import Scores
    from .report.findings import Evidence


class Scored(NamedTuple):
    """The result of a scoring."""

    scores: Scores
    dataset: str
    samples: list[Sample]
    tubes: dict[int | str, Tube]
    evidence: dict[int | str, Evidence]
    """For a head, and only if ``explain`` is set."""
    facts: dict[str, str]
    """Description of what was scored, for display."""


@dataclass(frozen=True, kw_only=True)
class HowToScore(Request):
    """Parameters of every scoring."""

    split: str = "test"
    protocol: str = one_of(PROTOCOLS, "tubedetr")
    max_frames: int | None = setting(None, AT_LEAST_1)
    """Maximum number of slots per clip; None: the head's, or 100 for predictions."""


@dataclass(frozen=True, kw_only=True)
class HeadScoring(HowToScore):
    """How a head is scored on a split of a cache."""

    batch_size: int | str | None = None
    """Clips per batch. ``auto``: double it until throughput stops rising or memory runs out. None: as in training."""
    shuffle_sentences: int | None = None
    """Seed of the control: pair every sample with another sample's sentence. A head that reads must then fail."""
    videos: Path | None = None
    """The folder of the videos, for a head that was trained end to end."""
    explain: bool = False
    """Keep the evidence for every tube; see `Evidence`."""

    def score(self, head: Head, cache: Cache, device: torch.device, bar: Progress) -> Scored:
        """Score a head on a cache. Raises CacheError if it was trained on features of another kind."""
        from ..heads.training.batch_size import fitting_batch_size
        from .evaluation import open_split, readings_of, score_split, shuffle_sentences, tubes_of
        from .report.findings import Evidence

        if self.max_frames:
            head = replace(head, sampling=replace(head.sampling, max_frames=self.max_frames))
        data = open_split(head, cache, self.split, self.videos)
        if self.shuffle_sentences is not None:
            shuffle_sentences(data, self.shuffle_sentences)
        size = self.batch_size
        if size == "auto":
            bar.doing = "looking for a batch size"
            size = fitting_batch_size(head.model, data, head.model.head.config.max_frames, device)
            bar.say(f"{size} clips at once", err=True)
        size = int(size or head.batch_size)
        bar.at(0, len(data))
        tubes: dict[int | str, Tube] = {}
        evidence: dict[int | str, Evidence] = {}
        if self.explain:
            for reading in readings_of(head.model, data, size, device, bar.step):
                tubes[reading.tube.sample_id] = reading.tube
                evidence[reading.tube.sample_id] = Evidence.of(reading)
        else:
            tubes = tubes_of(head.model, data, size, device, bar.step)
        bar.doing = "scoring"
        scores = head.mark(score_split(data, tubes, self.protocol), data)
        bar.doing = ""
        return Scored(scores, cache.annotations.dataset, list(data.samples()), tubes, evidence, {})


@dataclass(frozen=True, kw_only=True)
class CheckpointScoring(HeadScoring):
    """A checkpoint, the cache it is scored on, and the device."""

    checkpoint: Path
    cache: Location
    annotation_set: str | None = None
    device: str | None = None
    encoders: dict[str, Any] = field(default_factory=dict)
    """Locations of the encoders that were trained with the head; fields of `live_encoders.Sources`."""

    def run(self) -> Scored:
        """Raises CheckpointError, CacheError, UsageError."""
        from ..cache.index import Cache
        from .evaluation import load_head, require_videos
        from .report.findings import head_facts

        with Progress("evaluate", "sentences", doing="loading the head") as bar:
            device = choose_device(self.device)
            require_videos(self.checkpoint, self.videos)
            head = load_head(self.checkpoint, device, self.encoders)
            cache = Cache.open(self.cache, self.annotation_set)
            scored = self.score(head, cache, device, bar)
        return scored._replace(facts=head_facts(self.checkpoint, head, cache))


@dataclass(frozen=True, kw_only=True)
class PredictionScoring(HowToScore):
    """A prediction file, and the annotations it is scored against."""

    predictions: Path
    dataset: str = one_of(DATASETS)
    annotations: Path
    vidor: Path | None = None
    fps: float | None = setting(None, POSITIVE)
    """Sampling rate of the scored frames, per second; None: 5."""
    allow_missing: bool = False
    """Score the predictions that exist; count missing samples instead of raising an error."""

    def run(self) -> Scored:
        """Raises PredictionError, AnnotationError, UsageError."""
        from ..cache.sampling import Sampling
        from ..extract.datasets.readers import read_annotations
        from .metrics import score
        from .predictions import LINES, read_prediction_file

        sampling = Sampling(self.fps or 5.0, self.max_frames or 100)
        with Progress("evaluate", doing="reading annotations and predictions") as bar:
            read = read_annotations(
                self.dataset, self.annotations, self.split, sampling=sampling, for_scoring=True, vidor=self.vidor
            )
            found = read_prediction_file(self.predictions, read.samples, read.captions_first)
            bar.doing = f"scoring {len(read.samples):,} sentences"
            scores = score(
                read.samples,
                found.tubes,
                protocol=self.protocol,
                sampling=sampling,
                allow_missing=self.allow_missing,
            )
        if found.format != LINES:
            say(f"{self.predictions} was read as {found.format}; tubes: {len(found.tubes):,}", err=True)
        facts = {"predictions": self.predictions.name} | ({} if found.format == LINES else {"format": found.format})
        return Scored(scores, self.dataset, read.samples, found.tubes, {}, facts)
