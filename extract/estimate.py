"""Estimate the cost of an extraction: counts from the annotations, times from a few real blocks. Nothing is written."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..cache.header import Header
from ..cache.index import Cache
from ..cache.stores.quantise import stored_bytes
from ..cache.texts import HASH_BYTES
from ..wording import counted
from .batches import FrameBatch, Mixer
from .encoders.backbone import Backbone
from .features import encode
from .intake import Intake
from .job import ExtractJob, Prepared, prepare
from .pending import PendingVideo, plan
from .video.agreement import rate_is_assumed
from .video.channel import DecodeJob
from .video.decoders import Decoders, End

PROBED_VIDEOS, PROBED_FRAMES, PROBED_SENTENCES = 4, 64, 64


@dataclass(frozen=True)
class Speed:
    """Seconds per frame, measured on some frames of some videos."""

    decode: float
    encode: float
    frames: int
    videos: int


@dataclass(frozen=True)
class Estimate:
    """The remaining work of an extraction, and its duration."""

    videos: int
    topped_up: int
    """Videos in the cache that lack frames or regions."""
    missing: int
    """Videos without a file."""
    already: int
    frames: int
    sentences: int
    bytes: int
    speed: Speed | None
    """None if there is nothing to do, or no video could be read."""
    job: ExtractJob
    processes: int

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage, if it ran alone with all its processes."""
        if self.speed is None:
            return {"decode": 0.0, "encode": 0.0}
        on_cpu = self.job.device.type == "cpu"  # more processes would share the same cores
        decoders = self.job.decoding.processes * self.processes
        return {
            "decode": self.frames * self.speed.decode / min(decoders, os.cpu_count() or 1),
            "encode": self.frames * self.speed.encode / (1 if on_cpu else self.processes),
        }

    def lines(self) -> list[str]:
        """The estimate as printed lines."""
        stages = self.seconds()
        on_cpu = self.job.device.type == "cpu"
        hours = (sum(stages.values()) if on_cpu else max(stages.values())) / 3600
        said = [
            f"videos     {self.videos:,} to do, {self.topped_up:,} to top up, {self.already:,} already there, "
            f"{self.missing:,} without a file",
            f"frames     {self.frames:,}",
            f"sentences  {self.sentences:,}",
            f"on disk    {self.bytes / 1e9:,.3f} GB more",
        ]
        if self.speed is not None:
            where = f"measured on {counted(self.speed.frames, 'frame')} of {counted(self.speed.videos, 'video')}"
            said += [
                f"decode     {1e3 * self.speed.decode:.1f} ms a frame in one process",
                f"encode     {1e3 * self.speed.encode:.1f} ms a frame on {self.job.device}",
                f"time       {hours:,.2f} h, {where}; the bottleneck is {max(stages, key=lambda s: stages[s])}",
            ]
        return [*said, "nothing was written"]


def estimate(job: ExtractJob, processes: int = 1) -> Estimate:
    """Count what ``job`` would write, and time a few blocks. Raises CacheError if the cache has another recipe."""
    ready = prepare(job)
    mine = job.part.of(list(ready.files))
    with TemporaryDirectory() as scratch:  # for an empty cache, if there is none yet
        cache = ready.cache or nothing(Path(scratch), ready)
        pending_videos = {v: plan(cache, v, rate_is_assumed(job.dataset)) for v in mine}
        sentences = cache.lacking_sentences()
    wanted = {v: pending for v, pending in pending_videos.items() if pending is not None}
    todo = {v: pending for v, pending in wanted.items() if isinstance(ready.files[v], Path)}
    sizes = (shape for pending in todo.values() for shape in pending.layout(ready.recipe).values())
    sums = len(todo) * sum(2 * 8 * level.channels for level in ready.recipe.levels)
    regions = sum(pending.wanted.nbytes for pending in todo.values())
    size = sums + regions + sum(stored_bytes(shape, ready.recipe.dtype) for shape in sizes)
    size += _text_bytes(ready, sentences)
    speed = _measure(job, ready, todo) if todo else None
    return Estimate(
        videos=sum(pending.is_first for pending in todo.values()),
        topped_up=sum(not pending.is_first for pending in todo.values()),
        missing=len(wanted) - len(todo),
        already=len(mine) - len(wanted),
        frames=sum(len(pending.grid) for pending in todo.values()),
        sentences=len(sentences),
        bytes=size,
        speed=speed,
        job=job,
        processes=processes,
    )


def nothing(place: Path, ready: Prepared) -> Cache:
    """An empty cache with the job's annotations."""
    return Cache(place, Header(ready.recipe, "zarr", {})).seen_through(ready.annotations)


def _text_bytes(ready: Prepared, sentences: list[str]) -> int:
    """Bytes of token features, from the mean length of some sentences; each sentence also has a hash and an offset."""
    if not sentences:
        return 0
    chosen = sentences[:: max(1, len(sentences) // PROBED_SENTENCES)][:PROBED_SENTENCES]
    tokens = np.mean([len(features) for features in ready.text.encode(chosen)])
    size = stored_bytes((round(len(sentences) * tokens), ready.text.width), ready.recipe.dtype)
    return size + (HASH_BYTES + 8) * len(sentences)


def _measure(job: ExtractJob, ready: Prepared, todo: dict[str, PendingVideo]) -> Speed | None:
    """Time the first frames of a few videos, evenly spread over the list. None if none of them can be read."""
    pending_videos = list(todo.values())[:: max(1, len(todo) // PROBED_VIDEOS)][:PROBED_VIDEOS]
    intake = Intake(job.device, ready.backbone.mean, ready.backbone.std)
    mixer = Mixer.of(ready.backbone, job.batch_frames, job.device)
    settings = intake.settings(job.decoding, ready.recipe, (pending.video for pending in pending_videos))
    jobs = (replace(_beginning(pending, ready), raw=intake.raw) for pending in pending_videos)
    batches: dict[tuple[int, ...], FrameBatch] = {}  # one for every shape
    decoding, decoded, read = 0.0, 0, 0
    with Decoders(settings) as decoders:
        for event in decoders.decode(jobs):
            if isinstance(event, End):
                read += event.error is None
                continue
            decoding += event.seconds
            decoded += len(event.pixels[0])
            pending = todo[event.job.video_id]
            for view, pixels in enumerate(intake(event)):
                batches |= {
                    b.pixels.shape: b for b in mixer.add(None, view, *pending.gathered(view, event.start, pixels))
                }
    batches |= {batch.pixels.shape: batch for batch in mixer.rest() if batch.pixels.shape not in batches}
    if not decoded:
        return None
    backbone = ready.backbone.for_extraction(job.device)
    encoding = [_encode_seconds(backbone, batch, job) / job.batch_frames for batch in batches.values()]
    views = len(pending_videos[0].views)
    return Speed(decoding / decoded, float(np.mean(encoding)) * views, decoded, read)


def _beginning(pending: PendingVideo, ready: Prepared) -> DecodeJob:
    file = ready.files[pending.video_id]
    assert isinstance(file, Path)
    job = pending.decode_job(file, ready.recipe)
    return replace(job, frames=job.frames[:PROBED_FRAMES])


def _encode_seconds(backbone: Backbone, batch: FrameBatch, job: ExtractJob) -> float:
    """Seconds of the second call; the first one includes set-up work."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        _, last = encode(backbone, batch.tensor(), job.device, job.amp).popitem()
        last.cpu()
        seconds = time.perf_counter() - start
    return seconds
