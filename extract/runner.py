"""Run the frozen encoders once over a dataset and fill a cache: decode → encode → write, resumable.

Videos are decoded in processes of their own (`decoders`), their frames encoded here in batches that mix videos
(`batches`), and written by a thread (`writer`). The three work at once and are timed apart, so the bottleneck names
itself. A kill at any moment loses at most the videos in flight.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from queue import Empty
from random import SystemRandom
from typing import Any

import numpy as np

from ..cache.index import PART_ROWS, Cache, text_key, video_key
from ..cache.schema import Recipe, Sample, Text, Visual
from ..cache.skipped import was_absent
from ..cache.stores.quantise import FeatureWriter
from ..errors import VideoError
from ..objects import Location
from ..outputs import naming_write_errors, writable_folder
from ..stop import Stop
from .batches import FrameBatch, Mixer
from .clip import Clip
from .encoders.backbone import Backbone
from .encoders.text import TextEncoder
from .encoding import Encoding
from .intake import Intake
from .lengths import notice_of_cuts
from .video.channel import DecodeJob
from .video.decoders import Decoders, End
from .video.source import Sources
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
    "write_text",
)

log = logging.getLogger(__name__)


def library_versions() -> dict[str, str]:
    """Recorded beside the recipe, never hashed into it."""
    names = ("stvg", "torch", "torchvision", "transformers", "timm", "av", "numpy", "zarr", "h5py")
    return {"python": platform.python_version(), **{n: version(n) for n in names}}


def extract(
    samples: Sequence[Sample],
    files: Mapping[str, Path | VideoError],
    out: Location,
    recipe: Recipe,
    backbone: Backbone,
    text: TextEncoder,
    *,
    store: str = "zarr",
    admitted_by: dict[str, Any] | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Report:
    """Fill the cache at ``out`` with everything of ``options.part`` that is not there yet.

    ``samples``: those of the cache where there is one; ``admitted_by``: the options that chose them. ``files``: the file of
    every video id, or why there is none. Videos that cannot be read are listed in skipped.jsonl and in the report; with
    ``options.strict`` the first one raises its VideoError. Raises CacheError when the cache was made with another recipe,
    of other samples or in another store, or a feature does not fit its dtype, WriteError when it cannot be written. Once
    ``stop`` has a signal, no further video is begun, and those in flight are written.
    """
    options, stop = options or Options(), stop or Stop(())
    with naming_write_errors(out):
        cache = Cache.create(out, recipe, samples, store, library_versions(), admitted_by)
        cache.store.sweep()
        with stop.at_once():
            write_text(cache, text.for_extraction(options.device), options)
    by_video: dict[str, list[int]] = {}
    for row, video_id in enumerate(cache.samples.video_ids):
        by_video.setdefault(video_id, []).append(row)
    mine = {video_id: by_video[video_id] for video_id in options.part.of(list(by_video))}
    return Extraction(cache, mine, files, backbone.for_extraction(options.device), options, progress, stop).run()


def write_text(cache: Cache, text: TextEncoder, options: Options) -> None:
    """Token features of every distinct sentence of the cache, PART_ROWS sentences to a unit.

    Raises CacheError when a unit that is there holds other sentences.
    """
    table = cache.samples
    if options.part.index == 0 and (notice := notice_of_cuts(table, text.tokenizer)):
        log.warning("%s", notice)
    for part, start in enumerate(range(0, table.text_count, PART_ROWS)):
        if part % options.part.count != options.part.index or cache.require_text(part):
            continue
        chosen = [table.sentence(row) for row in range(start, min(start + PART_ROWS, table.text_count))]
        batches = [chosen[i : i + options.text_batch] for i in range(0, len(chosen), options.text_batch)]
        features = [f for batch in batches for f in text.encode(batch)]
        lengths = [len(f) for f in features]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        with cache.store.writer(text_key(part)) as unit:
            writer = FeatureWriter(unit, cache.recipe.dtype)
            writer.add("hidden", (int(offsets[-1]), text.width), "token")
            for f in features:
                writer.append("hidden", f, f"text features of part {part}")
            unit.commit({"offsets": offsets.tolist(), **cache.text_attributes(part)})


class Extraction:
    """One run over some videos: who is at which stage, and what became of whom.

    ``by_video``: of every video of this run, the rows of its samples in the cache's table.
    """

    def __init__(
        self,
        cache: Cache,
        by_video: dict[str, list[int]],
        files: Mapping[str, Path | VideoError],
        backbone: Backbone,
        options: Options,
        progress: Progress | None,
        stop: Stop,
    ) -> None:
        self.cache, self.by_video, self.files = cache, by_video, files
        self.backbone, self.options, self.progress, self.stop = backbone, options, progress, stop
        self.report, self.sources = Report(), Sources(cache)
        self.intake = Intake(options.device, backbone.mean, backbone.std)
        self.encode_frames = Encoding(backbone, options.device, cache.recipe.amp)
        self.clips: dict[str, Clip] = {}
        self.began, self.encoding = time.perf_counter(), 0.0

    def run(self) -> Report:
        mixer = Mixer.of(self.backbone, self.options.batch_frames, self.options.device)
        videos = (self.cache.samples.video(rows[0]) for rows in self.by_video.values())
        decoding = self.intake.settings(self.options.decoding, self.cache.recipe, videos)
        with self.sources, Decoders(decoding) as decoders, Writer(self.cache, self.options.device) as writer:
            self.began = time.perf_counter()
            for event in decoders.decode(self.jobs()):
                if isinstance(event, End):
                    if event.error is not None:
                        clip = self.clips.pop(event.job.video_id)
                        writer.give_up(clip)
                        self.fail(clip, event.error)
                    self.report.warnings += event.warnings
                    continue
                clip = self.clips[event.job.video_id]
                self.report.busy["decode"] += event.seconds / self.options.decoding.processes
                for view, pixels in enumerate(self.intake(event)):
                    for batch in mixer.add(clip, view, *clip.gathered(view, event.start, pixels)):
                        self.encode(batch, writer)
            for batch in mixer.rest():
                self.encode(batch, writer)
            self.report.outdated = self.sources.outdated()
        self.settle(writer)
        return self.report

    def jobs(self) -> Iterator[DecodeJob]:
        """What there is to decode; videos that are done, or known to be bad, are settled on the way.

        Every extractor has an order of its own, so several on one cache seldom work on the same video, without knowing of
        each other.
        """
        known_bad = {} if self.options.retry_skipped else self.cache.skipped()
        order = list(self.by_video)
        SystemRandom().shuffle(order)
        proven = False
        for video_id in order:
            if self.stop.signal:
                self.report.ended = self.stop.signal
                return
            file = self.files[video_id]
            if self.cache.store.contains(video_key(video_id)):
                self.report.already += 1
                self.note(video_id, 0, None)
                if isinstance(file, Path):
                    self.sources.compare(video_id, file)
            elif video_id in known_bad and (isinstance(file, VideoError) or not was_absent(known_bad[video_id])):
                self.note(video_id, 0, known_bad[video_id])
            elif isinstance(file, VideoError):
                self.skip(video_id, file)
            else:
                if not proven and isinstance(self.cache.path, Path):
                    writable_folder(self.cache.path)
                    proven = True
                try:
                    clip = self.clips[video_id] = self.clip(video_id, file)
                except VideoError as error:  # it went away since it was found
                    self.skip(video_id, error)
                    continue
                yield replace(clip.decode_job(file, self.cache.recipe), raw=self.intake.raw)

    def clip(self, video_id: str, file: Path) -> Clip:
        samples = [self.cache.samples[row] for row in self.by_video[video_id]]
        clip = Clip.of(samples, self.cache.recipe)
        clip.source = self.sources.read(file)
        return clip

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
        """Count what has been written meanwhile."""
        self.report.elapsed = time.perf_counter() - self.began
        self.report.busy |= {"encode": self.encoding + writer.fetching, "write": writer.writing}
        while True:
            try:
                clip, error = writer.finished.get_nowait()
            except Empty:
                return
            del self.clips[clip.video_id]
            if error is not None:
                self.fail(clip, error)
                continue
            self.report.videos += 1
            self.report.frames += len(clip.grid)
            self.note(clip.video_id, len(clip.grid), None)

    def fail(self, clip: Clip, error: VideoError) -> None:
        """List a video that does not decode, unless its file changed meanwhile: then the next extraction tries again."""
        try:
            if clip.source:
                clip.source.require_unchanged()
        except VideoError as changed:
            if self.options.strict:
                raise
            self.note(clip.video_id, 0, str(changed))
        else:
            self.skip(clip.video_id, error)

    def skip(self, video_id: str, error: VideoError) -> None:
        """List a video that cannot be read."""
        if self.options.strict:
            raise error
        with naming_write_errors(self.cache.path):
            self.cache.skip(video_id, str(error))
        self.note(video_id, 0, str(error))

    def note(self, video_id: str, frames: int, skipped: str | None) -> None:
        if skipped is not None:
            self.report.skipped[video_id] = skipped
        if self.progress:
            self.progress(video_id, frames, skipped, self.report.shares())


def make_recipe(
    dataset: str, annotations_sha256: str, backbone: Backbone, text: TextEncoder, chosen: dict[str, Any]
) -> Recipe:
    """The recipe of an extraction; ``chosen`` holds the other fields."""
    facts = (backbone.levels, backbone.mean, backbone.std, backbone.multiple, backbone.window)
    visual = Visual(backbone.name, backbone.sha256, *facts)
    return Recipe(dataset, annotations_sha256, visual, Text(text.name, text.sha256, text.width), **chosen)
