"""Features made elsewhere: a folder with a NumPy file for each video, and when each of its rows was looked at.

A file holds (n, channels), or (n, h, w, channels): n moments of a video, in order. A map shows the whole picture, whatever
its shape. A cache wants features at the frames of its own grid; each takes those of the moment nearest to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..atomic import unit_name
from ..cache.arrays import rows_of, sums_of
from ..cache.index import Cache
from ..cache.needs import Needs
from ..cache.sampling import FloatArray, IntArray
from ..cache.schema import Level, Recipe, Text, Video, Visual
from ..cache.stores.quantise import LARGEST, FeatureWriter
from ..cache.video_unit import more_key, video_key
from ..cache.view import View
from ..errors import UsageError, VideoError
from ..outputs import naming_write_errors
from .encoders.text import build_text_encoder
from .features import sums_of_frames
from .job import ExtractJob, read_set
from .runner import library_versions
from .sentences import write_text
from .video.source import sha256_of
from .work import Report

LEVEL, STRIDE = "imported", 32
"""The one level such a cache has. A map is taken for that of a picture of as many pixels a cell."""
SUFFIXES = (".npz", ".npy")


@dataclass(frozen=True)
class Times:
    """When the rows of files are that do not say so: row i at i / ``fps`` seconds, or at source frame ``offset`` + i ·
    ``stride``."""

    fps: float | None = None
    stride: float | None = None
    offset: float = 0.0

    def __post_init__(self) -> None:
        if self.fps is not None and self.stride is not None:
            raise UsageError("--feature-fps and --stride are two ways to say one thing", hint="give one of them")

    def positions(self, count: int, video: Video, file: Path) -> FloatArray:
        """(n,) source frames. Raises UsageError where nothing was said."""
        rows = np.arange(count, dtype=np.float64)
        if self.fps is not None:
            return rows * (video.fps / self.fps)
        if self.stride is not None:
            return self.offset + rows * self.stride
        raise UsageError(
            f"{file} does not say when its features are",
            expected="an array frames or timestamps_ms in it, or --feature-fps F, or --stride N with --offset M",
        )


@dataclass(frozen=True)
class Imported:
    """One file."""

    features: NDArray[Any]
    """(n, h, w, channels)."""
    positions: FloatArray
    """(n,) the source frame of each, ascending."""

    @classmethod
    def read(cls, file: Path, video: Video, times: Times) -> Imported:
        """Raises VideoError for a file that cannot be used."""
        found = arrays_in(file)
        features = found["features"]
        if features.ndim == 2:
            features = features[:, None, None]
        if features.ndim != 4 or features.dtype.kind not in "fiu" or not features.size:
            raise VideoError(
                f"{file} holds no features",
                expected="numbers, (n, channels) or (n, h, w, channels)",
                found=f"{found['features'].dtype} of shape {found['features'].shape}",
            )
        if "frames" in found:
            positions = found["frames"].astype(np.float64)
        elif "timestamps_ms" in found:
            positions = found["timestamps_ms"].astype(np.float64) * (video.fps / 1000)
        else:
            positions = times.positions(len(features), video, file)
        if (
            positions.shape != (len(features),)
            or not (np.diff(positions) > 0).all()
            or not np.isfinite(positions).all()
        ):
            ascending = positions.shape == (len(features),)
            raise VideoError(
                f"{file}: the times of its features cannot be used",
                expected=f"{len(features)} ascending numbers",
                found="numbers that do not ascend, or are not finite" if ascending else f"shape {positions.shape}",
            )
        return cls(features, positions)

    def rows_at(self, frames: IntArray, video: Video, file: Path) -> IntArray:
        """The row nearest to each of some source frames (f,). Raises VideoError where it is further than one step away."""
        after = np.clip(np.searchsorted(self.positions, frames), 1, max(1, len(self.positions) - 1))
        before = after - 1
        after = np.minimum(after, len(self.positions) - 1)
        nearer = np.abs(self.positions[after] - frames) < np.abs(self.positions[before] - frames)
        rows = np.where(nearer, after, before)
        step = float(np.median(np.diff(self.positions))) if len(self.positions) > 1 else video.fps
        far = np.abs(self.positions[rows] - frames) > max(step, 1.0)
        if far.any():
            raise VideoError(
                f"{file} has no features near source frame {frames[far][0]} of video {video.video_id}",
                expected=f"one within {max(step, 1.0):g} frames, the distance of its own",
                found=f"{len(self.positions)} from frame {self.positions[0]:g} to {self.positions[-1]:g}",
                hint="check --feature-fps, or --stride and --offset",
            )
        return rows


def arrays_in(file: Path) -> dict[str, NDArray[Any]]:
    """``features``, and ``frames`` or ``timestamps_ms`` where the file says them. Raises VideoError."""
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            beside = file.with_suffix(".frames.npy")
            times = {"frames": np.load(beside, allow_pickle=False)} if beside.is_file() else {}
            return {"features": loaded, **times}
        with loaded:
            found = {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise VideoError(f"{file} cannot be read", found=error) from None
    timing = {name: found.pop(name) for name in ("frames", "timestamps_ms") if name in found}
    if "features" not in found and len(found) != 1:
        raise VideoError(f"{file} holds no array called features", found=", ".join(found) or "no arrays")
    return {"features": found.get("features", next(iter(found.values()))), **timing}


def files_below(folder: Path) -> dict[str, Path]:
    """The files of features below a folder, by name without suffix. UsageError when there is none, or two of one name."""
    found: dict[str, Path] = {}
    for file in sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES and not p.name.endswith(".frames.npy")):
        if found.setdefault(file.stem, file) != file:
            raise UsageError(f"{found[file.stem]} and {file} are of one video", hint="leave one of them there")
    if not found:
        raise UsageError(f"no features in {folder}", expected="a file VIDEO.npy or VIDEO.npz for each video")
    return found


def file_of(video: Video, files: dict[str, Path]) -> Path | VideoError:
    """The file called like a video's id, or like its file."""
    names = dict.fromkeys((video.video_id, unit_name(video.video_id), Path(video.path).stem))
    for name in names:
        if name in files:
            return files[name]
    return VideoError(f"no features of video {video.video_id}", expected=" or ".join(f"{n}.npz" for n in names))


def channels_of(files: Mapping[str, Path]) -> int:
    """Of the first file that can be read. Raises VideoError when none can."""
    unread: VideoError | None = None
    for place in files.values():
        try:
            shape = arrays_in(place)["features"].shape
        except VideoError as error:
            unread = unread or error
            continue
        if shape:
            return int(shape[-1])
    raise unread or VideoError("none of the files holds features", found=f"{len(files)} files with single numbers")


def require_fit(features: NDArray[np.float32], dtype: str, file: Path) -> None:
    """Raises VideoError for values that are not finite, or too large for the dtype of the cache."""
    peak = float(np.abs(features).max(initial=0.0))  # nan and inf survive max
    if not peak <= LARGEST[dtype]:
        raise VideoError(
            f"{file} holds values that {dtype} cannot",
            expected=f"finite values up to {LARGEST[dtype]:g}",
            found=f"{peak:g}",
            hint="--dtype float32" if np.isfinite(peak) and dtype != "float32" else "mend the file",
        )


def content_hash(files: dict[str, Path]) -> str:
    """Of all files, whatever folder they lie in."""
    listed = "".join(f"{name} {sha256_of(file)}\n" for name, file in sorted(files.items()))
    return hashlib.sha256(listed.encode(errors="surrogatepass")).hexdigest()


def import_features(
    folder: Path,
    name: str,
    times: Times,
    job: ExtractJob,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Fill the cache of ``job`` with what the files in ``folder`` say of the videos of its annotations.

    Sentences are encoded here. Videos without a usable file are listed in skipped.jsonl and in the report. Files that
    change make other features: a cache made of other ones is refused. Raises UsageError and CacheError as extraction.
    """
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
        raise VideoError(f"{file} has other features", expected=f"{level.channels} channels", found=features.shape[-1])
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
