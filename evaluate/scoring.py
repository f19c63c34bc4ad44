"""What `stvg evaluate` and `stvg report` are asked to score, and the scoring."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
    """What there is to write after scoring."""

    scores: Scores
    dataset: str
    samples: list[Sample]
    tubes: dict[int | str, Tube]
    evidence: dict[int | str, Evidence]
    """Only of a head, and where it was asked for."""
    facts: dict[str, str]
    """What was scored, for people."""


@dataclass(frozen=True, kw_only=True)
class HowToScore(Request):
    """What can be said of every scoring."""

    split: str = "test"
    protocol: str = one_of(PROTOCOLS, "tubedetr")
    max_frames: int | None = None
    """Slots of a clip; None: the head's, or 100."""


@dataclass(frozen=True, kw_only=True)
class HeadScoring(HowToScore):
    """A head, and how it is scored on a split of a cache."""

    batch_size: int | str | None = None
    """Clips run at once; ``auto``: as many as pay on this device; None: those it trained with."""
    shuffle_sentences: int | None = None
    """A seed: every sample gets another one's sentence, and a head that reads must fail."""
    videos: Path | None = None
    """The folder of the videos, for a head that was trained end to end."""
    explain: bool = False
    """Keep the evidence for every tube."""

    def score(self, head: Head, cache: Cache, device: torch.device, bar: Progress) -> Scored:
        """Score a head on a cache. Raises CacheError where it was trained on features of another kind."""
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
    """A head in a file, the cache it is scored on, and where."""

    checkpoint: Path
    cache: Location
    annotation_set: str | None = None
    device: str | None = None
    encoders: dict[str, Any] = field(default_factory=dict)
    """Where those lie that trained with the head; fields of `live_encoders.Sources`."""

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
    """A file of anyone's predictions, and the annotations they are scored against."""

    predictions: Path
    dataset: str = one_of(DATASETS)
    annotations: Path
    vidor: Path | None = None
    fps: float | None = None
    """Sampling rate scored at; None: 5."""
    allow_missing: bool = False
    """Score what is there; missing samples are counted, not fatal."""

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
