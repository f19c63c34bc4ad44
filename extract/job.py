"""What `stvg extract` asks for, put together: annotations, encoders, recipe, then the runner on one device."""

from __future__ import annotations

import hashlib
import logging
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from ..cache.index import Cache, video_key
from ..cache.making import Difference, other_rules, require_same_samples
from ..cache.sampling import Sampling
from ..cache.schema import Recipe, Sample
from ..cache.skipped import was_absent
from ..cache.view import MAX_SIDE
from ..errors import AnnotationError, UsageError
from ..objects import HEADER, Location
from ..stop import Interrupted, Stop
from .datasets.folders import default_video_folder, find_splits
from .datasets.readers import read_annotations
from .encoders.backbone import Backbone, build_backbone
from .encoders.text import TextEncoder, build_text_encoder
from .runner import extract, make_recipe
from .video.decoders import Settings
from .video.video_files import VideoFiles, find_video_files, require_some
from .work import Options, Part, Progress, Report

log = logging.getLogger(__name__)

ASKED = (signal.SIGTERM, signal.SIGUSR1)
"""By these an extraction is asked to end; the second is what Slurm sends ahead of a time limit, where it is told to."""


class Bar(Progress, Protocol):
    """A progress display that is told the number of videos once it is known."""

    def total(self, count: int) -> None: ...


@dataclass(frozen=True)
class ExtractJob:
    """The options of one extraction; see `stvg extract --help`."""

    dataset: str
    annotations: Path
    out: Location
    sampling: Sampling
    device: torch.device
    vidor: Path | None = None
    videos: Path | None = None
    splits: list[str] | None = None
    backbone: str = "resnet101"
    backbone_weights: str | None = None
    text_encoder: str | None = None
    text_weights: str | None = None
    tokenizer: str | None = None
    weights_seed: int = 0
    resolution: int = 224
    levels: str = "roi"
    dtype: str = "float16"
    amp: str = "none"
    views: int = 1
    views_seed: int = 0
    store: str = "zarr"
    batch_frames: int = 32
    on_bad_record: str = "raise"
    strict: bool = False
    retry_skipped: bool = False
    part: Part = field(default_factory=Part)
    """The share of the videos that is extracted."""
    decoding: Settings = field(default_factory=Settings)

    def options(self) -> Options:
        """What the runner is told of it."""
        return Options(
            self.device,
            batch_frames=self.batch_frames,
            strict=self.strict,
            retry_skipped=self.retry_skipped,
            part=self.part,
            decoding=self.decoding,
        )


@dataclass(frozen=True)
class Prepared:
    """Everything an extraction needs, read and checked."""

    samples: Sequence[Sample]
    """Those of the cache, if there is one already."""
    admitted_by: dict[str, Any]
    """The options that chose them."""
    dropped: list[AnnotationError]
    recipe: Recipe
    cache: Cache | None
    """None: it is not made yet."""
    warnings: list[str]
    files: VideoFiles
    """The file of every video, or why there is none."""
    backbone: Backbone
    text: TextEncoder


def run_job(job: ExtractJob, progress: Bar | None = None) -> tuple[Report, list[AnnotationError]]:
    """Extract in this process. Returns the report and the records that were dropped.

    A signal of `ASKED` ends it once the videos in flight are written; `Report.ended` then says so.
    """
    with Stop(ASKED) as stop:
        try:
            with stop.at_once():
                ready = prepare(job)
            if progress:
                progress.total(len(job.part.of(list(ready.files))))
            report = extract(
                ready.samples,
                ready.files,
                job.out,
                ready.recipe,
                ready.backbone,
                ready.text,
                store=job.store,
                admitted_by=ready.admitted_by,
                options=job.options(),
                progress=progress,
                stop=stop,
            )
        except Interrupted as asked:
            return Report(ended=asked.signal), []
    report.warnings = [*ready.warnings, *report.warnings]
    return report, ready.dropped


def prepare(job: ExtractJob) -> Prepared:
    """Read the annotations, find the videos, build the encoders. Nothing is written."""
    if job.resolution not in MAX_SIDE:
        raise UsageError(f"no geometry for resolution {job.resolution}", expected=f"one of {sorted(MAX_SIDE)}")
    splits = list(dict.fromkeys(job.splits or find_splits(job.dataset, job.annotations)))
    read = [
        read_annotations(
            job.dataset, job.annotations, split, sampling=job.sampling, on_bad_record=job.on_bad_record, vidor=job.vidor
        )
        for split in splits
    ]
    for part in read if job.part.index == 0 else ():  # what all processes would say is said once
        for doubt in part.doubts:
            log.warning("%s: %s", part.split, doubt)
    samples: Sequence[Sample] = [s for part in read for s in part.samples]
    dropped = [error for part in read for error in part.dropped]
    content = hashlib.sha256("".join(f"{part.split}:{part.sha256};" for part in read).encode()).hexdigest()
    backbone = build_backbone(job.backbone, job.backbone_weights, job.weights_seed, job.device)
    name = job.text_encoder or ("tiny" if job.backbone == "tiny" else "roberta-base")
    text = build_text_encoder(name, job.text_weights, job.tokenizer, job.weights_seed, job.device)
    recipe = make_recipe(
        job.dataset,
        content,
        backbone,
        text,
        {
            "fps": job.sampling.fps,
            "resolution": job.resolution,
            "max_side": MAX_SIDE[job.resolution],
            "keep": job.levels,
            "dtype": job.dtype,
            "amp": job.amp,
            "views": job.views,
            "views_seed": job.views_seed,
        },
    )
    rule = {"splits": splits, "max_frames": job.sampling.max_frames, "on_bad_record": job.on_bad_record}
    cache = Cache.open(job.out) if (job.out / HEADER).exists() else None
    warnings: list[str] = []
    if cache:
        cache.require_store(job.store)
        warnings = settle_samples(cache, recipe, samples, rule)
        samples = cache.samples
    folder = job.videos or default_video_folder(job.dataset, job.annotations)
    files = find_video_files({s.video.video_id: s.video for s in samples}.values(), folder, job.dataset)
    if not cache or not settled(cache, files):
        require_some(files, folder)
    return Prepared(samples, rule, dropped, recipe, cache, warnings, files, backbone, text)


def settle_samples(cache: Cache, recipe: Recipe, samples: Sequence[Sample], rule: dict[str, Any]) -> list[str]:
    """Compare what was read with a cache that is there, whose own samples alone count from now on; returns warnings.

    Raises CacheError for another recipe, and for other samples when other options are known to have chosen them. Where
    these are the same, or an older cache does not say, its samples were read by another release: then it stays as it is.
    """
    cache.require_made_with(recipe, rule)
    if rules := other_rules(cache.header.admitted_by, rule):
        require_same_samples(cache.samples, samples, rules, cache.path)
    elif difference := Difference.of(cache.samples, samples):
        made = "" if cache.header.admitted_by else "; it does not say with which --max-frames it was made"
        return [f"{cache.path} was made of other samples and goes on with them: {difference}{made}"]
    return []


def settled(cache: Cache, videos: Iterable[str]) -> bool:
    """Whether a cache has every video, or says why it cannot be read."""
    bad = {video_id for video_id, reason in cache.skipped().items() if not was_absent(reason)}
    return all(video_id in bad or cache.store.contains(video_key(video_id)) for video_id in videos)
