"""Run the frozen encoders once over a dataset and fill a cache: read → encode → write, per video, resumable.

Decoding runs ahead of the encoder in a thread; the three stages are timed apart, so the bottleneck names itself. A kill
at any moment loses at most the video in flight.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from ..cache.errors import VideoError
from ..cache.index import PART_ROWS, Cache, array_name, text_key, video_key
from ..cache.objects import Location
from ..cache.quantise import FeatureWriter
from ..cache.sampling import IntArray, Sampling, slots_in, video_grid
from ..cache.schema import Recipe, Sample, Video, View
from ..cache.table import distinct_sentences
from .augment import stored_views
from .backbone import Backbone
from .decode import read_frames
from .text import TextEncoder
from .transforms import apply_view


@dataclass(frozen=True)
class Options:
    """How to work; nothing here changes what is stored."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_frames: int = 32
    """Frames encoded at once; one video's frames at a time."""
    text_batch: int = 64
    strict: bool = False
    """Stop at the first video that cannot be read instead of listing it."""
    retry_skipped: bool = False


class Progress(Protocol):
    """Told after every video; ``stages`` are the shares of time spent reading, encoding and writing."""

    def __call__(self, video_id: str, frames: int, skipped: str | None, stages: dict[str, float]) -> None: ...


@dataclass
class Report:
    """What one run of the extractor did."""

    videos: int = 0
    frames: int = 0
    already: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "encode": 0.0, "write": 0.0})

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start

    def shares(self) -> dict[str, float]:
        total = sum(self.seconds.values()) or 1.0
        return {k: v / total for k, v in self.seconds.items()}


def library_versions() -> dict[str, str]:
    """Recorded beside the recipe, never hashed into it."""
    names = ("stvg", "torch", "torchvision", "transformers", "av", "numpy", "zarr", "h5py")
    return {"python": platform.python_version(), **{n: version(n) for n in names}}


def extract(
    samples: Sequence[Sample],
    files: dict[str, Path | None],
    out: Location,
    recipe: Recipe,
    backbone: Backbone,
    text: TextEncoder,
    *,
    store: str = "zarr",
    compression: str | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Report:
    """Fill the cache at ``out`` with everything that is not there yet.

    ``files``: the video file of every video id, None where there is none. Videos that cannot be read are listed in
    skipped.jsonl and in the report; with ``options.strict`` the first one raises its VideoError. Raises CacheError when
    the cache was made with another recipe or compression, or a feature does not fit its dtype.
    """
    options = options or Options()
    cache = Cache.create(out, recipe, samples, store, library_versions(), compression)
    report = Report()
    write_text(cache, samples, text, options, report)
    by_video: dict[str, list[Sample]] = {}
    for sample in samples:
        by_video.setdefault(sample.video.video_id, []).append(sample)
    backbone = backbone.to(options.device).to(memory_format=torch.channels_last)
    known_bad = {} if options.retry_skipped else cache.skipped()
    for video_id, of_video in by_video.items():
        if cache.store.contains(video_key(video_id)):
            report.already += 1
            continue
        reason = known_bad.get(video_id)
        frames = 0
        if reason is None:
            try:
                frames = write_video(cache, of_video, files.get(video_id), backbone, options, report)
                report.videos += 1
                report.frames += frames
            except VideoError as error:
                if options.strict:
                    raise
                reason = str(error)
                cache.skip(video_id, reason)
        if reason is not None:
            report.skipped[video_id] = reason
        if progress:
            progress(video_id, frames, reason, report.shares())
    return report


def write_text(cache: Cache, samples: Sequence[Sample], text: TextEncoder, options: Options, report: Report) -> None:
    """Token features of every distinct sentence, PART_ROWS sentences to a unit."""
    sentences = list(distinct_sentences(samples))
    for part, start in enumerate(range(0, len(sentences), PART_ROWS)):
        if cache.store.contains(text_key(part)):
            continue
        chosen = sentences[start : start + PART_ROWS]
        with report.timed("encode"):
            batches = [chosen[i : i + options.text_batch] for i in range(0, len(chosen), options.text_batch)]
            features = [f for batch in batches for f in text.encode(batch)]
        lengths = [len(f) for f in features]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        with report.timed("write"), cache.store.writer(text_key(part)) as unit:
            writer = FeatureWriter(unit, cache.recipe.dtype)
            writer.add("hidden", (int(offsets[-1]), text.width))
            for f in features:
                writer.append("hidden", f, f"text features of part {part}")
            unit.commit({"offsets": offsets.tolist(), **cache.text_attributes(part)})


def write_video(
    cache: Cache, samples: list[Sample], file: Path | None, backbone: Backbone, options: Options, report: Report
) -> int:
    """One video's unit: decode its grid, encode it block by block, commit. Returns the number of frames."""
    video, recipe = samples[0].video, cache.recipe
    if file is None:
        raise VideoError(
            f"video {video.video_id} is not there", expected=video.path, effect="its sentences cannot be used"
        )
    grid = video_grid([s.segment for s in samples], video.fps, recipe.fps)
    views = stored_views(samples, recipe)
    regions = [Regions.of(samples, grid, recipe, view) for view in views]
    with cache.store.writer(video_key(video.video_id)) as unit:
        writer = FeatureWriter(unit, recipe.dtype)
        declared = False
        at = 0
        for renditions in read_blocks(file, grid, video, views, backbone, options, report):
            count = len(renditions[0])
            stored: dict[str, NDArray[Any]] = {}
            with report.timed("encode"):
                for k, pixels in enumerate(renditions):
                    levels = encode(backbone, pixels, options.device)
                    chosen = select_levels(levels, recipe, regions[k].within(at, count))
                    stored |= {array_name(level, k): block for level, block in chosen.items()}
            with report.timed("write"):
                if not declared:
                    declare(writer, stored, len(grid), len(regions[0].frames))
                    declared = True
                for name, block in stored.items():
                    writer.append(name, block, f"{name} of video {video.video_id}")
            at += count
        with report.timed("write"):
            unit.commit(
                {
                    "fingerprint": recipe.fingerprint,
                    "frames": grid.tolist(),
                    "views": [view.to_json() for view in views],
                    "targets": regions[0].targets,
                    "roi_frames": regions[0].frames.tolist(),
                    "roi_targets": regions[0].target_index.tolist(),
                }
            )
    return len(grid)


def read_blocks(
    file: Path, grid: IntArray, video: Video, views: list[View], backbone: Backbone, options: Options, report: Report
) -> Iterator[list[Tensor]]:
    """Blocks of the grid's frames as normalised pixels (n, 3, H, W), one tensor per view; the next block is decoded while
    this one is encoded."""
    frames = read_frames(file, grid, width=video.width, height=video.height, block=options.batch_frames)
    blocks = ([apply_view(block, view, backbone.mean, backbone.std) for view in views] for block in frames)
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        pending = pool.submit(next, blocks, None)
        while True:
            with report.timed("read"):  # what is left to wait for
                block = pending.result()
            if block is None:
                return
            pending = pool.submit(next, blocks, None)
            yield block


@torch.inference_mode()
def encode(backbone: Backbone, pixels: Tensor, device: torch.device) -> dict[str, Tensor]:
    """C3, C4, C5 of a block: (n, C, h, w) each."""
    return backbone(pixels.to(device, non_blocking=True, memory_format=torch.channels_last))


def select_levels(levels: dict[str, Tensor], recipe: Recipe, regions: Regions) -> dict[str, NDArray[Any]]:
    """What the recipe stores of a block, channels last: maps (n, h, w, C), regions (r, S², C3 + C4)."""
    names = ("c3", "c4", "c5") if recipe.levels == "full" else ("c5",)
    stored = {name: levels[name].permute(0, 2, 3, 1).contiguous().float().cpu().numpy() for name in names}
    if recipe.levels == "roi":
        boxes = torch.from_numpy(np.concatenate([regions.slots[:, None], regions.corners], axis=1)).float()
        crops = [
            roi_align(levels[name], boxes.to(levels[name]), recipe.roi_size, 1 / stride, 2, aligned=True)
            for name, stride in zip(("c3", "c4"), recipe.strides, strict=False)
        ]
        stored["roi"] = torch.cat(crops, dim=1).flatten(2).transpose(1, 2).contiguous().float().cpu().numpy()
    return stored


@dataclass(frozen=True)
class Regions:
    """The annotated boxes of one video whose C3 and C4 are stored, ordered by frame, then target. R regions."""

    targets: list[str]
    target_index: IntArray
    """(R,) into ``targets``."""
    frames: IntArray
    """(R,) source frames."""
    slots: IntArray
    """(R,) positions in the video's grid, or in the block at hand."""
    corners: NDArray[np.float64]
    """(R, 4) xyxy in pixels of the rendition."""

    @classmethod
    def of(cls, samples: list[Sample], grid: IntArray, recipe: Recipe, view: View) -> Regions:
        """Every distinct (target, grid frame inside one of its moments and segments) of a video."""
        targets = sorted({s.target_id for s in samples}) if recipe.levels == "roi" else []
        found: dict[tuple[int, int], NDArray[np.float64]] = {}
        for sample in samples if targets else []:
            frames = sample.frames(Sampling(recipe.fps, max_frames=len(grid)))
            frames = frames[slots_in(frames, sample.moment)]
            index = targets.index(sample.target_id)
            boxes = sample.boxes_at(frames)
            found |= {(int(f), index): box for f, box in zip(frames, boxes, strict=True) if np.isfinite(box).all()}
        keys = sorted(found)
        frames = np.array([k[0] for k in keys], dtype=np.int64)
        fractions = view.to_fractions(np.array([found[k] for k in keys]).reshape(-1, 4))
        half = fractions[:, 2:] / 2
        corners = np.concatenate([fractions[:, :2] - half, fractions[:, :2] + half], axis=1)
        corners *= [view.width, view.height] * 2
        slots = np.searchsorted(grid, frames)
        return cls(targets, np.array([k[1] for k in keys], dtype=np.int64), frames, slots, corners)

    def within(self, start: int, count: int) -> Regions:
        """The regions of grid positions ``start`` … ``start + count - 1``, with slots counted from ``start``."""
        keep = (self.slots >= start) & (self.slots < start + count)
        return Regions(
            self.targets, self.target_index[keep], self.frames[keep], self.slots[keep] - start, self.corners[keep]
        )


def declare(writer: FeatureWriter, stored: dict[str, NDArray[Any]], frames: int, regions: int) -> None:
    """Announce a unit's arrays once the first block shows their shapes."""
    for name, block in stored.items():
        writer.add(name, (regions if name.endswith("roi") else frames, *block.shape[1:]))


def make_recipe(
    dataset: str, annotations_sha256: str, backbone: Backbone, text: TextEncoder, chosen: dict[str, Any]
) -> Recipe:
    """The recipe of an extraction; ``chosen`` holds fps, resolution, max_side, levels, dtype, views and views_seed."""
    return Recipe(
        dataset=dataset,
        annotations_sha256=annotations_sha256,
        backbone=backbone.name,
        backbone_sha256=backbone.weights_sha256,
        text_encoder=text.name,
        text_sha256=text.weights_sha256,
        channels=tuple(backbone.channels),
        strides=tuple(backbone.strides),
        text_width=text.width,
        **chosen,
    )
