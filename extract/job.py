"""Prepare an extraction (annotations, video files, encoders, recipe), and run it on one device."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from ..cache.annotations import AnnotationSet
from ..cache.index import Cache
from ..cache.sampling import Sampling
from ..cache.schema import Recipe
from ..cache.set_files import with_splits
from ..cache.skipped import was_absent
from ..cache.table import SampleTable
from ..cache.view import MAX_SIDE
from ..errors import AnnotationError, UsageError
from ..objects import HEADER
from ..stop import Interrupted, Stop
from ..wording import counted
from .datasets.folders import default_video_folder, find_splits
from .datasets.readers import read_annotations
from .encoders.backbone import Backbone, build_backbone
from .encoders.text import TextEncoder, build_text_encoder
from .request import Extraction, ExtractRequest
from .runner import extract, make_recipe
from .video.decoders import Settings
from .video.video_files import VideoFiles, find_video_files, require_some
from .work import Options, Part, Progress, Report

log = logging.getLogger(__name__)

ASKED = (signal.SIGTERM, signal.SIGUSR1)
"""Signals that request a graceful end. Slurm can send SIGUSR1 before a time limit (``--signal``)."""


class Bar(Progress, Protocol):
    """A progress display that also shows a plan and the number of videos."""

    def plan(self, text: str) -> None: ...

    def total(self, count: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ExtractJob(Extraction):
    """The extraction of one process, on one device."""

    sampling: Sampling
    device: torch.device
    part: Part = field(default_factory=Part)
    """The share of the videos to extract."""
    decoding: Settings = field(default_factory=Settings)

    @classmethod
    def of(cls, request: ExtractRequest, part: Part, device: torch.device) -> ExtractJob:
        """The job of a request on one device. Raises UsageError for an invalid fps or max_frames."""
        try:
            sampling = Sampling(request.fps, request.max_frames)
        except (TypeError, ValueError) as error:
            raise UsageError("fps or max_frames is invalid", found=error) from None
        decoding = Settings(
            processes=request.decoders or (1 if device.type == "cpu" else 4),
            timeout=request.decode_timeout,
            memory=int(request.decoder_memory * 2**30),
        )
        shared = {each.name: getattr(request, each.name) for each in fields(Extraction)}
        return cls(**shared, sampling=sampling, device=device, part=part, decoding=decoding)

    def options(self) -> Options:
        """The options for the runner."""
        return Options(
            self.device,
            batch_frames=self.batch_frames,
            strict=self.strict,
            retry_skipped=self.retry_skipped,
            part=self.part,
            decoding=self.decoding,
        )


class Encoders(NamedTuple):
    """Built encoders."""

    backbone: Backbone
    text: TextEncoder


@dataclass(frozen=True)
class Prepared:
    """Everything an extraction needs, read and checked."""

    annotations: AnnotationSet
    """The requested splits."""
    dropped: list[AnnotationError]
    recipe: Recipe
    cache: Cache | None
    """The existing cache, with an annotation set that includes these splits (not written yet); None: there is none."""
    files: VideoFiles
    """For every video with features, its file or the error that says why there is none."""
    backbone: Backbone
    text: TextEncoder

    @property
    def samples(self) -> SampleTable:
        """The samples of the whole annotation set."""
        return (self.cache.annotations if self.cache else self.annotations).samples


def run_job(
    job: ExtractJob, progress: Bar | None = None, encoders: Encoders | None = None
) -> tuple[Report, list[AnnotationError]]:
    """Extract in this process. Returns the report and the records that were dropped. ``encoders``: see `prepare`.

    After a signal of `ASKED`, the videos in flight are written, and `Report.ended` holds the signal.
    """
    with Stop(ASKED) as stop:
        try:
            with stop.at_once():
                ready = prepare(job, encoders)
            if progress:
                if not job.part.index:  # printed by one of several processes
                    progress.plan(plan_of(job, ready))
                progress.total(len(job.part.of(list(ready.files))))
            report = extract(
                ready.annotations,
                ready.files,
                job.out,
                ready.recipe,
                ready.backbone,
                ready.text,
                store=job.store,
                options=job.options(),
                progress=progress,
                stop=stop,
            )
        except Interrupted as asked:
            return Report(ended=asked.signal), []
    report.asked = stop.signal
    return report, ready.dropped


def build_encoders(job: ExtractJob) -> Encoders:
    """The encoders of a job. Raises the errors of `build_backbone` and `build_text_encoder`."""
    backbone = build_backbone(job.backbone, job.backbone_weights, job.weights_seed, job.device)
    name = job.text_encoder or ("tiny" if job.backbone == "tiny" else "roberta-base")
    return Encoders(backbone, build_text_encoder(name, job.text_weights, job.tokenizer, job.weights_seed, job.device))


def prepare(job: ExtractJob, encoders: Encoders | None = None) -> Prepared:
    """Read the annotations, find the videos, build the encoders. Nothing is written.

    ``encoders``: those of the job, where they are built already.
    """
    if job.resolution not in MAX_SIDE:
        raise UsageError(f"no geometry for resolution {job.resolution}", expected=f"one of {sorted(MAX_SIDE)}")
    annotations, dropped = read_set(job)
    backbone, text = encoders or build_encoders(job)
    recipe = make_recipe(
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
    cache = None
    if (job.out / HEADER).exists():
        cache = Cache.open(job.out)
        cache.recipe.require_equal(recipe, job.out)
        cache.require_store(job.store)
        cache = cache.seen_through(with_splits(job.out, annotations))
    folder = job.videos or default_video_folder(job.dataset, job.annotations)
    table = annotations.samples
    if recipe.bare:
        return Prepared(annotations, dropped, recipe, cache, {}, backbone, text)
    videos = {video_id: table.video(rows[0]) for video_id, rows in table.rows_of_videos.items()}
    files = find_video_files(videos.values(), folder, job.dataset)
    if not cache or not (no_file_is_there(files) and settled(cache, files)):
        require_some(files, folder)
    return Prepared(annotations, dropped, recipe, cache, files, backbone, text)


def plan_of(job: ExtractJob, ready: Prepared) -> str:
    """One line on what will be done: videos, sentences, encoders, device, folder."""
    part = job.part
    share = f"{len(part.of(list(ready.files))):,} of " if part.count > 1 else ""
    data = f"{share}{counted(len(ready.files), 'video')} ({counted(len(ready.annotations.samples), 'sentence')}"
    splits = f"{', '.join(ready.annotations.splits)}), {job.sampling.fps:g} frames a second, {job.resolution} px"
    return f"extracting {data} of {splits}; {ready.backbone.name} and {ready.text.name}; on {job.device} → {job.out}"


def read_set(job: ExtractJob) -> tuple[AnnotationSet, list[AnnotationError]]:
    """The annotation set of a job's splits, and errors of dropped records."""
    splits = list(dict.fromkeys(job.splits or find_splits(job.dataset, job.annotations)))
    read = [
        read_annotations(
            job.dataset, job.annotations, split, sampling=job.sampling, on_bad_record=job.on_bad_record, vidor=job.vidor
        )
        for split in splits
    ]
    for part in read if job.part.index == 0 else ():  # logged by one of several processes
        for doubt in part.doubts:
            log.warning("%s: %s", part.split, doubt)
    samples = [s for part in read for s in part.samples]
    name, rule = job.annotation_set or job.dataset, (job.sampling.max_frames, job.on_bad_record)
    annotations = AnnotationSet.of(name, job.dataset, samples, splits, *rule)
    return annotations, [error for part in read for error in part.dropped]


def no_file_is_there(files: VideoFiles) -> bool:
    return not any(isinstance(file, Path) for file in files.values())


def settled(cache: Cache, videos: Iterable[str]) -> bool:
    """Whether the cache has all features that its annotation set needs of some videos, unreadable videos excepted."""
    bad = {video_id for video_id, reason in cache.skipped().items() if not was_absent(reason)}
    table, asked = cache.samples, set(videos) - bad
    return bool(cache.covered([row for row, video_id in enumerate(table.video_ids) if video_id in asked]).all())
