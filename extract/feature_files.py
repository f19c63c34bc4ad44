"""Read feature files of other tools: a NumPy file per video, and the time of each of its rows.

A file holds an array (n, channels) or (n, h, w, channels): features of n moments of a video, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import unit_name
from ..cache.sampling import FloatArray, IntArray
from ..cache.schema import Video
from ..errors import UsageError, VideoError
from ..wording import first_line

SUFFIXES = (".npz", ".npy")


@dataclass(frozen=True)
class Times:
    """Times of the rows in files without stated times.

    Row i is at i / ``fps`` seconds, or at source frame ``offset`` + i · ``stride``.
    """

    fps: float | None = None
    stride: float | None = None
    offset: float = 0.0

    def __post_init__(self) -> None:
        if self.fps is not None and self.stride is not None:
            raise UsageError("--feature-fps and --stride exclude each other", hint="give one of them")

    def positions(self, count: int, video: Video, file: Path) -> FloatArray:
        """Source frame of each row, (n,). Raises UsageError if neither ``fps`` nor ``stride`` was given."""
        rows = np.arange(count, dtype=np.float64)
        if self.fps is not None:
            return rows * (video.fps / self.fps)
        if self.stride is not None:
            return self.offset + rows * self.stride
        raise UsageError(
            f"{file} does not say when its features were taken",
            expected="an array frames or timestamps_ms in it, or --feature-fps F, or --stride N with --offset M",
        )


@dataclass(frozen=True)
class Imported:
    """The content of one feature file."""

    features: NDArray[Any]
    """(n, h, w, channels)."""
    positions: FloatArray
    """(n,) source frame of each row, ascending."""

    @classmethod
    def read(cls, file: Path, video: Video, times: Times) -> Imported:
        """Raises VideoError if the file cannot be used, UsageError if the times are not known."""
        found = arrays_in(file)
        features = found["features"]
        require_features(features, file)
        if features.ndim == 2:
            features = features[:, None, None]
        stated = next((found[name] for name in ("frames", "timestamps_ms") if name in found), None)
        if stated is None:
            positions = times.positions(len(features), video, file)
        else:
            require_times(stated, len(features), file)
            positions = stated.astype(np.float64) * (1 if "frames" in found else video.fps / 1000)
        inside = int((positions < video.frame_count).sum())
        if inside <= 1 < len(positions):
            raise VideoError(
                f"{file}: the times of its features are not those of video {video.video_id}",
                expected=f"source frames up to {video.frame_count}, at {video.fps:g} a second",
                found=f"from frame {positions[0]:g} to {positions[-1]:g}",
                hint="frames counts source frames, timestamps_ms milliseconds; check --feature-fps, or --stride",
            )
        return cls(features, positions)

    def rows_at(self, frames: IntArray, video: Video, file: Path) -> IntArray:
        """Index of the row nearest to each source frame (f,). Raises VideoError if one is more than a step away."""
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
                expected=f"a row within {max(step, 1.0):g} frames, the distance between its rows",
                found=f"{len(self.positions)} from frame {self.positions[0]:g} to {self.positions[-1]:g}",
                hint="check --feature-fps, or --stride and --offset",
            )
        return rows


def require_features(features: NDArray[Any], file: Path) -> None:
    """Raises VideoError if the array has no numbers, or a wrong number of dimensions."""
    if features.ndim not in (2, 4) or features.dtype.kind not in "fiu" or not features.size:
        raise VideoError(
            f"{file} holds no features",
            expected="numbers, (n, channels) or (n, h, w, channels)",
            found=f"{features.dtype} of shape {features.shape}",
        )


def require_times(stated: NDArray[Any], count: int, file: Path) -> None:
    """Raises VideoError unless ``stated`` has ``count`` finite, ascending numbers."""
    numbers = stated.shape == (count,) and stated.dtype.kind in "fiu"
    if not numbers or not np.isfinite(stated).all() or not (stated[1:] > stated[:-1]).all():
        raise VideoError(
            f"{file}: the times of its features cannot be used",
            expected=f"{count} ascending numbers",
            found="numbers that do not ascend, or are not finite"
            if numbers
            else f"{stated.dtype} of shape {stated.shape}",
        )


def arrays_in(file: Path) -> dict[str, NDArray[Any]]:
    """``features``, and ``frames`` or ``timestamps_ms`` if the file has them. Raises VideoError."""
    try:
        with file.open("rb") as opened:
            loaded = np.load(opened, allow_pickle=False)
            if not isinstance(loaded, np.ndarray):
                found = {name: loaded[name] for name in loaded.files}
        if isinstance(loaded, np.ndarray):
            beside = file.with_suffix(".frames.npy")
            times = {"frames": np.load(beside, allow_pickle=False)} if beside.is_file() else {}
            return {"features": loaded, **times}
    except Exception as error:  # NumPy, zipfile and zlib raise many kinds for a damaged file
        raise VideoError(f"{file} cannot be read", found=first_line(error)) from None
    timing = {name: found.pop(name) for name in ("frames", "timestamps_ms") if name in found}
    if "features" not in found and len(found) != 1:
        raise VideoError(f"{file} holds no array called features", found=", ".join(found) or "no arrays")
    return {"features": found.get("features", next(iter(found.values()))), **timing}


def files_below(folder: Path) -> dict[str, Path]:
    """Name without suffix → feature file, for all below a folder. Raises UsageError for none, or two of one name."""
    found: dict[str, Path] = {}
    listed = (p for p in folder.rglob("*") if p.suffix in SUFFIXES and p.is_file())
    for file in sorted(p for p in listed if not p.name.endswith(".frames.npy")):
        if found.setdefault(file.stem, file) != file:
            raise UsageError(f"{found[file.stem]} and {file} belong to the same video", hint="keep one of them")
    if not found:
        raise UsageError(f"no features in {folder}", expected="a file VIDEO.npy or VIDEO.npz for each video")
    return found


def file_of(video: Video, files: dict[str, Path]) -> Path | VideoError:
    """The feature file named like the video's id, or like its video file; or an error."""
    names = dict.fromkeys((video.video_id, unit_name(video.video_id), Path(video.path).stem))
    for name in names:
        if name in files:
            return files[name]
    return VideoError(f"no features of video {video.video_id}", expected=" or ".join(f"{n}.npz" for n in names))


def channels_of(files: Mapping[str, Path]) -> int:
    """Number of channels in the first readable file. Raises VideoError if none can be read."""
    unread: VideoError | None = None
    for place in files.values():
        try:
            features = arrays_in(place)["features"]
            require_features(features, place)
        except VideoError as error:
            unread = unread or error
            continue
        return int(features.shape[-1])
    assert unread is not None
    raise unread
