"""What an extraction will cost: counted from the annotations, timed on a few real blocks. Nothing is written."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..cache.index import video_key
from ..cache.schema import Sample
from ..cache.stores.quantise import stored_bytes
from ..cache.table import distinct_sentences
from ..wording import counted
from .batches import FrameBatch, Mixer
from .clip import Clip
from .encoders.backbone import Backbone
from .features import encode
from .intake import Intake
from .job import ExtractJob, Prepared, prepare
from .video.channel import DecodeJob
from .video.decoders import Decoders, End

PROBED_VIDEOS, PROBED_FRAMES, PROBED_SENTENCES = 4, 64, 64


@dataclass(frozen=True)
class Speed:
    """Seconds a frame, measured on some frames."""

    decode: float
    encode: float
    frames: int
    videos: int


@dataclass(frozen=True)
class Estimate:
    """What is left to do, and how long it takes."""

    videos: int
    missing: int
    """Videos without a file."""
    already: int
    frames: int
    bytes: int
    speed: Speed | None
    """None where there is nothing to do, or nothing could be read."""
    job: ExtractJob
    processes: int

    def seconds(self) -> dict[str, float]:
        """For each stage, working alone with all it is given."""
        if self.speed is None:
            return {"decode": 0.0, "encode": 0.0}
        on_cpu = self.job.device.type == "cpu"  # then more processes share the same cores
        decoders = self.job.decoding.processes * self.processes
        return {
            "decode": self.frames * self.speed.decode / min(decoders, os.cpu_count() or 1),
            "encode": self.frames * self.speed.encode / (1 if on_cpu else self.processes),
        }

    def lines(self) -> list[str]:
        """For people."""
        stages = self.seconds()
        on_cpu = self.job.device.type == "cpu"
        hours = (sum(stages.values()) if on_cpu else max(stages.values())) / 3600
        said = [
            f"videos     {self.videos:,} to do, {self.already:,} already there, {self.missing:,} without a file",
            f"frames     {self.frames:,}",
            f"on disk    {self.bytes / 1e9:,.3f} GB more",
        ]
        if self.speed is not None:
            where = f"measured on {counted(self.speed.frames, 'frame')} of {counted(self.speed.videos, 'video')}"
            said += [
                f"decode     {1e3 * self.speed.decode:.1f} ms a frame and process",
                f"encode     {1e3 * self.speed.encode:.1f} ms a frame on {self.job.device}",
                f"time       {hours:,.2f} h, {where}; {max(stages, key=lambda s: stages[s])[:-1]}ing limits",
            ]
        return [*said, "nothing was written"]


def estimate(job: ExtractJob, processes: int = 1) -> Estimate:
    """Count what ``job`` would write and time a few blocks. Raises CacheError for a cache of another recipe."""
    ready = prepare(job)
    by_video: dict[str, list[Sample]] = {}
    for sample in ready.samples:
        by_video.setdefault(sample.video.video_id, []).append(sample)
    mine = job.part.of(list(by_video))
    done = {v for v in mine if ready.cache and ready.cache.store.contains(video_key(v))}
    todo = [v for v in mine if v not in done and isinstance(ready.files[v], Path)]
    missing = len(mine) - len(done) - len(todo)
    frames = size = 0
    sums = sum(2 * 8 * level.channels for level in ready.recipe.levels)
    for video_id in todo:
        clip = Clip.of(by_video[video_id], ready.recipe)
        frames += len(clip.grid)
        size += sums + sum(stored_bytes(shape, ready.recipe.dtype) for shape in clip.layout(ready.recipe).values())
    size += _text_bytes(ready) if todo else 0
    speed = _measure(job, ready, {v: by_video[v] for v in todo}) if todo else None
    return Estimate(len(todo), missing, len(done), frames, size, speed, job, processes)


def _text_bytes(ready: Prepared) -> int:
    """From the mean length of some sentences."""
    sentences = list(distinct_sentences(ready.samples))
    chosen = sentences[:: max(1, len(sentences) // PROBED_SENTENCES)][:PROBED_SENTENCES]
    tokens = np.mean([len(features) for features in ready.text.encode(chosen)])
    return stored_bytes((round(len(sentences) * tokens), ready.text.width), ready.recipe.dtype)


def _measure(job: ExtractJob, ready: Prepared, by_video: dict[str, list[Sample]]) -> Speed | None:
    """Time the first frames of a few videos, spread over all. None when not one of them can be read."""
    chosen = list(by_video)[:: max(1, len(by_video) // PROBED_VIDEOS)][:PROBED_VIDEOS]
    clips = {video_id: Clip.of(by_video[video_id], ready.recipe) for video_id in chosen}
    intake, mixer = (
        Intake(job.device, ready.backbone.mean, ready.backbone.std),
        Mixer.of(ready.backbone, job.batch_frames, job.device),
    )
    settings = intake.settings(job.decoding, ready.recipe, (clip.video for clip in clips.values()))
    jobs = (replace(_beginning(clip, ready), raw=intake.raw) for clip in clips.values())
    batches: dict[tuple[int, ...], FrameBatch] = {}  # one of every shape
    decoding, decoded, read = 0.0, 0, 0
    with Decoders(settings) as decoders:
        for event in decoders.decode(jobs):
            if isinstance(event, End):
                read += event.error is None
                continue
            decoding += event.seconds
            decoded += len(event.pixels[0])
            clip = clips[event.job.video_id]
            for view, pixels in enumerate(intake(event)):
                batches |= {b.pixels.shape: b for b in mixer.add(None, view, *clip.gathered(view, event.start, pixels))}
    batches |= {batch.pixels.shape: batch for batch in mixer.rest() if batch.pixels.shape not in batches}
    if not decoded:
        return None
    backbone = ready.backbone.for_extraction(job.device)
    encoding = [_encode_seconds(backbone, batch, job) / job.batch_frames for batch in batches.values()]
    views = len(next(iter(clips.values())).views)
    return Speed(decoding / decoded, float(np.mean(encoding)) * views, decoded, read)


def _beginning(clip: Clip, ready: Prepared) -> DecodeJob:
    file = ready.files[clip.video_id]
    assert isinstance(file, Path)
    job = clip.decode_job(file, ready.recipe)
    return replace(job, frames=job.frames[:PROBED_FRAMES])


def _encode_seconds(backbone: Backbone, batch: FrameBatch, job: ExtractJob) -> float:
    """Of the second time: the first prepares what later batches find ready."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        _, last = encode(backbone, batch.tensor(), job.device, job.amp).popitem()
        last.cpu()
        seconds = time.perf_counter() - start
    return seconds
