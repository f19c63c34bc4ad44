"""Run the frozen encoders once over a dataset and fill a cache: decode → encode → write, resumable.

Child processes decode videos (`decoders`). This process encodes frames in batches that mix videos (`batches`), and a
thread writes the features (`writer`). The three stages run concurrently and are timed separately, which shows the
bottleneck. If the process is killed, at most the videos in flight are lost.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from queue import Empty, Queue
from random import SystemRandom
from typing import Any, TypeVar

from ..cache.annotations import AnnotationSet
from ..cache.index import Cache
from ..cache.schema import Recipe, Text, Visual
from ..cache.set_files import note_files
from ..cache.skipped import was_absent
from ..errors import CacheError, VideoError
from ..objects import Location
from ..outputs import naming_write_errors, writable_folder
from ..stop import Stop
from .batches import FrameBatch, Mixer
from .encoders.backbone import Backbone
from .encoders.text import TextEncoder
from .encoding import Encoding
from .intake import Intake
from .pending import PendingVideo, plan
from .sentences import write_text
from .video.agreement import rate_is_assumed
from .video.channel import DecodeJob
from .video.decoders import Decoders, End
from .video.source import Sources, doubtful
from .work import Options, Part, Progress, Report
from .writer import Encoded, Writer

__all__ = (
    "Extraction",
    "Options",
    "Part",
    "Progress",
    "Report",
    "extract",
    "library_versions",
    "make_recipe",
)

log = logging.getLogger(__name__)

Item = TypeVar("Item")


def library_versions() -> dict[str, str]:
    """Versions of Python and libraries, recorded beside the recipe but not part of its fingerprint."""
    names = ("stvg", "torch", "torchvision", "transformers", "timm", "av", "numpy", "zarr", "h5py")
    return {"python": platform.python_version(), **{n: version(n) for n in names}}


def extract(
    annotations: AnnotationSet,
    files: Mapping[str, Path | VideoError],
    out: Location,
    recipe: Recipe,
    backbone: Backbone,
    text: TextEncoder,
    *,
    store: str = "zarr",
    options: Options | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Report:
    """Add annotations to the cache at ``out``, and the features that they need and it lacks (of ``options.part`` only).

    ``files``: for every video id, its file or the error that says why there is none; empty for a recipe that keeps no
    features. Videos that cannot be read are listed in skipped.jsonl and in the report; with ``options.strict`` the
    first one raises its VideoError. Complete units are not written again. Raises CacheError if the cache has another
    recipe or store, or if a feature does not fit its dtype; WriteError if the cache cannot be written. After a signal
    to ``stop``, no further video is begun, and those in flight are written.
    """
    options, stop = options or Options(), stop or Stop(())
    with naming_write_errors(out):
        cache = Cache.create(out, recipe, store, library_versions())
        cache = cache.annotate(annotations.with_files(doubtful(cache, annotations, files)))
        cache.store.sweep()
        with stop.at_once():
            sentences = write_text(cache, text.for_extraction(options.device), options)
    videos = [] if recipe.bare else list(dict.fromkeys(annotations.samples.video_ids))
    mine = options.part.of(videos)
    report = Extraction(cache, mine, files, backbone.for_extraction(options.device), options, progress, stop).run()
    report.sentences = sentences
    return report


class Extraction:
    """One run over some videos: the videos in flight, their stages, and the report."""

    def __init__(
        self,
        cache: Cache,
        videos: Sequence[str],
        files: Mapping[str, Path | VideoError],
        backbone: Backbone,
        options: Options,
        progress: Progress | None,
        stop: Stop,
    ) -> None:
        self.cache, self.videos, self.files = cache, videos, files
        self.backbone, self.options, self.progress, self.stop = backbone, options, progress, stop
        self.report, self.sources = Report(), Sources(cache)
        self.intake = Intake(options.device, backbone.mean, backbone.std)
        self.encode_frames = Encoding(backbone, options.device, cache.recipe.amp)
        self.assumed = rate_is_assumed(cache.annotations.dataset)
        self.pending: dict[str, PendingVideo] = {}
        self.again: list[str] = []
        """Videos whose unit another extractor wrote at the same time, perhaps for other annotations."""
        self.began, self.encoding = time.perf_counter(), 0.0

    def run(self) -> Report:
        videos = list(self.videos)
        with self.sources:
            while videos and not self.report.ended:
                self.pass_over(videos)
                videos, self.again = self.again, []
                self.cache.look_again()
            self.report.outdated |= self.sources.outdated()
            with naming_write_errors(self.cache.path):
                self.note_files(self.sources.files())
        return self.report

    def note_files(self, seen: dict[str, Mapping[str, Any] | None]) -> None:
        """Record in the annotation set which of its videos have other files than the cached features."""
        before = self.cache.annotations
        if before.with_files(seen) is not before:
            note_files(self.cache.path, before.name, seen)

    def pass_over(self, videos: list[str]) -> None:
        """Extract what some videos lack."""
        mixer, table = Mixer.of(self.backbone, self.options.batch_frames, self.options.device), self.cache.samples
        pictured = (table.video(table.rows_of_videos[video][0]) for video in videos)
        decoding = self.intake.settings(self.options.decoding, self.cache.recipe, pictured)
        with Decoders(decoding) as decoders, Writer(self.cache, self.options.device) as writer:
            for event in decoders.decode(self.jobs(videos)):
                if isinstance(event, End):
                    if event.error is not None:
                        pending = self.pending.pop(event.job.video_id)
                        writer.give_up(pending)
                        self.fail(pending, event.error)
                    self.report.warnings += event.warnings
                    continue
                pending = self.pending[event.job.video_id]
                self.report.busy["decode"] += event.seconds / self.options.decoding.processes
                for view, pixels in enumerate(self.intake(event)):
                    for batch in mixer.add(pending, view, *pending.gathered(view, event.start, pixels)):
                        self.encode(batch, writer)
            for batch in mixer.rest():
                self.encode(batch, writer)
        self.settle(writer)

    def jobs(self, videos: list[str]) -> Iterator[DecodeJob]:
        """The decoding jobs. Videos that are complete, or known to be unreadable, are reported here and left out.

        The order is random in every extractor. So several extractors on one cache seldom work on the same video,
        without any coordination.
        """
        known_bad = {} if self.options.retry_skipped else self.cache.skipped()
        SystemRandom().shuffle(videos)
        proven = False
        for video_id in videos:
            if self.stop.signal:
                self.report.ended = self.stop.signal
                return
            file = self.files[video_id]
            try:
                pending = plan(self.cache, video_id, self.assumed)
            except CacheError as error:  # the stored unit is damaged, or its video has another size
                self.outdate(video_id, str(error))
                continue
            if pending is None:
                self.report.already += 1
                self.note(video_id, 0, None)
                if isinstance(file, Path):
                    self.sources.compare(video_id, file)
            elif video_id in known_bad and (isinstance(file, VideoError) or not was_absent(known_bad[video_id])):
                self.note(video_id, 0, known_bad[video_id])
            elif isinstance(file, VideoError):
                self.skip(video_id, file)
            elif not pending.is_first and self.sources.differs(video_id, file):
                self.outdate(video_id)
            else:
                if not proven and isinstance(self.cache.path, Path):
                    writable_folder(self.cache.path)
                    proven = True
                try:
                    pending.source = self.sources.read(file)
                except VideoError as error:  # the file was removed after it was found
                    self.skip(video_id, error)
                    continue
                self.pending[video_id] = pending
                yield replace(pending.decode_job(file, self.cache.recipe), raw=self.intake.raw)

    def encode(self, batch: FrameBatch, writer: Writer) -> None:
        start = time.perf_counter()
        found = self.encode_frames(batch.tensor())
        levels = {level.name: found[level.name] for level in self.cache.recipe.levels}
        self.encoding += time.perf_counter() - start
        if self.progress:
            self.progress.frames(sum(piece.count for piece in batch.pieces))
        writer.write(Encoded(batch.pieces, levels))
        self.settle(writer)

    def settle(self, writer: Writer) -> None:
        """Update the report with the videos that the writer has finished."""
        self.report.elapsed = time.perf_counter() - self.began
        self.report.busy |= {"encode": self.encoding + writer.fetching, "write": writer.writing}
        for pending in emptied(writer.forestalled):
            del self.pending[pending.video_id]
            self.again.append(pending.video_id)
        for pending, error in emptied(writer.finished):
            del self.pending[pending.video_id]
            if error is not None:
                self.fail(pending, error)
                continue
            self.report.videos += pending.is_first
            self.report.topped_up += not pending.is_first
            self.report.frames += len(pending.grid)
            self.note(pending.video_id, len(pending.grid), None)

    def fail(self, pending: PendingVideo, error: VideoError) -> None:
        """Skip a video that does not decode. If its file changed meanwhile, it is not listed: the next run retries."""
        try:
            if pending.source:
                pending.source.require_unchanged()
        except VideoError as changed:
            if self.options.strict:
                raise
            self.note(pending.video_id, 0, str(changed))
        else:
            self.skip(pending.video_id, error)

    def skip(self, video_id: str, error: VideoError) -> None:
        """Add a video that cannot be read to the skip list and the report."""
        if self.options.strict:
            raise error
        with naming_write_errors(self.cache.path):
            self.cache.skip(video_id, str(error))
        self.note(video_id, 0, str(error))

    def outdate(self, video_id: str, why: str | None = None) -> None:
        """Report a video whose features are damaged (``why``) or belong to another file; its unit stays unchanged."""
        if why is not None:
            self.report.outdated[video_id] = why
        self.report.already += 1
        self.note(video_id, 0, None)

    def note(self, video_id: str, frames: int, skipped: str | None) -> None:
        if skipped is not None:
            self.report.skipped[video_id] = skipped
        if self.progress:
            self.progress(video_id, frames, skipped, self.report.shares())


def emptied(queue: Queue[Item]) -> Iterator[Item]:
    """Remove and return all present items of a queue."""
    while True:
        try:
            yield queue.get_nowait()
        except Empty:
            return


def make_recipe(backbone: Backbone, text: TextEncoder, chosen: dict[str, Any]) -> Recipe:
    """The recipe of an extraction; ``chosen``: the fields that do not come from the encoders."""
    facts = (backbone.levels, backbone.mean, backbone.std, backbone.multiple, backbone.window)
    visual = Visual(backbone.name, backbone.sha256, *facts)
    return Recipe(visual, Text(text.name, text.sha256, text.width), **chosen)
