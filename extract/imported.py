"""Make a cache from features of other tools: a folder with a NumPy file for each video (see `feature_files`).

A map covers the whole picture, for any map shape. Each frame of the cache's grid gets the features of the nearest
moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..cache.arrays import rows_of, sums_of
from ..cache.index import Cache
from ..cache.needs import Needs
from ..cache.schema import Level, Recipe, Text, Visual
from ..cache.stores.quantise import LARGEST, FeatureWriter
from ..cache.video_unit import more_key, video_key
from ..cache.view import View
from ..errors import UsageError, VideoError
from ..outputs import naming_write_errors
from .encoders.text import build_text_encoder
from .feature_files import Imported, Times, channels_of, file_of, files_below
from .features import sums_of_frames
from .job import ExtractJob, read_set
from .runner import library_versions
from .sentences import write_text
from .video.source import sha256_of
from .work import Report

LEVEL, STRIDE = "imported", 32
"""Name and stride of the only level of an imported cache. The stride is nominal: a cell counts as 32 x 32 pixels."""


def require_fit(features: NDArray[np.float32], dtype: str, file: Path) -> None:
    """Raises VideoError if a value is not finite, or too large for the cache's dtype."""
    peak = float(np.abs(features).max(initial=0.0))  # nan and inf survive max
    if not peak <= LARGEST[dtype]:
        raise VideoError(
            f"{file} holds values that {dtype} cannot represent",
            expected=f"finite values up to {LARGEST[dtype]:g}",
            found=f"{peak:g}",
            hint="--dtype float32" if np.isfinite(peak) and dtype != "float32" else "correct the file",
        )


def content_hash(files: dict[str, Path]) -> str:
    """Hash of the names and contents of all files, without their folders."""
    listed = "".join(f"{name} {sha256_of(file)}\n" for name, file in sorted(files.items()))
    return hashlib.sha256(listed.encode(errors="surrogatepass")).hexdigest()


def import_features(
    folder: Path,
    name: str,
    times: Times,
    job: ExtractJob,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Fill the cache of ``job`` with features from the files in ``folder``, for the videos of its annotations.

    Sentences are encoded here. Videos without a usable file are listed in skipped.jsonl and in the report. A cache that
    was made from files with other contents is refused. Raises UsageError and CacheError as extraction does.
    """
    if not name.strip() or not name.isprintable():
        raise UsageError(f"{name!r} names no encoder", expected="--name with printable characters")
    files = files_below(folder)
    annotations, _ = read_set(job)
    text = build_text_encoder(
        job.text_encoder or "roberta-base", job.text_weights, job.tokenizer, job.weights_seed, job.device
    )
    level = Level(LEVEL, channels_of(files), STRIDE)
    visual = Visual(f"imported:{name}", content_hash(files), (level,), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    recipe = Recipe(visual, Text(text.name, text.sha256, text.width), job.sampling.fps, keep="last", dtype=job.dtype)
    report = Report()
    with naming_write_errors(job.out):
        cache = Cache.create(job.out, recipe, job.store, library_versions()).annotate(annotations)
        cache.store.sweep()
        report.sentences = write_text(cache, text.for_extraction(job.device), job.options())
        videos = job.part.of(list(dict.fromkeys(annotations.samples.video_ids)))
        for done, video_id in enumerate(videos, 1):
            try:
                _import_one(cache, video_id, files, times, report)
            except VideoError as error:
                if job.strict:
                    raise
                cache.skip(video_id, str(error))
                report.skipped[video_id] = str(error)
            progress(done, len(videos))
    return report


def _import_one(cache: Cache, video_id: str, files: dict[str, Path], times: Times, report: Report) -> None:
    rows = cache.samples.rows_of_videos[video_id]
    video, needs = cache.samples.video(rows[0]), Needs.of(cache.samples, rows, cache.recipe)
    known = cache.unit(video_id) if cache.unit_keys(video_id) else None
    frames = known.lacking(needs)[0] if known else needs.all_frames()
    if not len(frames):
        report.already += 1
        return
    file = file_of(video, files)
    if isinstance(file, VideoError):
        raise file
    found = Imported.read(file, video, times)
    features = found.features[found.rows_at(frames, video, file)].astype(np.float32)
    level = cache.recipe.levels[0]
    if features.shape[-1] != level.channels:
        raise VideoError(
            f"{file} has another number of channels", expected=f"{level.channels} channels", found=features.shape[-1]
        )
    require_fit(features, cache.recipe.dtype, file)
    key = video_key(video_id)
    with cache.store.writer(more_key(video_id, frames, np.empty((0, 5))) if known else key) as unit:
        writer = FeatureWriter(unit, cache.recipe.dtype)
        writer.add(level.name, features.shape, rows_of(level.name))
        writer.append(level.name, features, f"features of video {video_id}")
        unit.add(sums_of(level.name), (2, level.channels), np.float64)
        unit.append(sums_of(level.name), sums_of_frames(torch.from_numpy(features).permute(0, 3, 1, 2)).sum(0))
        view = View(video.width, video.height, features.shape[2] * STRIDE, features.shape[1] * STRIDE)
        facts = {"bytes": file.stat().st_size, "mtime_ns": file.stat().st_mtime_ns, "sha256": sha256_of(file)}
        attributes = {"fingerprint": cache.recipe.fingerprint, "frames": frames.tolist(), "views": [view.to_json()]}
        unit.commit({**attributes, "source": facts})
    report.videos += known is None
    report.topped_up += known is not None
    report.frames += len(frames)
