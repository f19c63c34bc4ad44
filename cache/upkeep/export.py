"""Export of features as NumPy files, one per video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...atomic import open_atomic, unit_name
from ...errors import UsageError
from ..index import Cache


def export(
    cache: Cache,
    out: Path,
    level: str | None = None,
    form: str = "npz",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the maps of one level of every video of the annotation set. Returns the number of videos.

    ``level``: name of a level.  [the last with maps] Videos with features of another file than the set describes are
    left out.

    ``npz``: VIDEO.npz with ``features`` (F, h, w, C), the source ``frames`` (F,) and their ``timestamps_ms`` (F,).
    ``npy``: VIDEO.npy and VIDEO.frames.npy. bfloat16 becomes float32, quantised values become float16.

    Raises UsageError if the cache keeps no maps of the level, or if two files would have the same name.
    """
    kept = [name for name, how in cache.recipe.kept.items() if how == "maps"]
    name = level or kept[-1]
    if name not in kept:
        raise UsageError(f"{cache.path} keeps no maps of level {name!r}", expected=" or ".join(kept))
    rows, there = cache.samples.rows_of_videos, cache.complete()
    videos = [video for video in rows if video in there and cache.means(video)]
    taken = {f"{unit_name(video)}.frames" for video in videos} if form == "npy" else set()
    if twice := [video for video in videos if unit_name(video) in taken]:
        raise UsageError(
            f"the features of video {twice[0]} and the frames of another video would have the same file name",
            found=f"{unit_name(twice[0])}.npy",
            effect="nothing was written",
            hint="--format npz",
        )
    for done, video_id in enumerate(videos, 1):
        unit = cache.unit(video_id)
        maps = unit.read(name, unit.places(unit.frames))
        features = (maps.float() if maps.dtype.itemsize == 2 and "bfloat" in str(maps.dtype) else maps).numpy()
        milliseconds = unit.frames * (1000 / cache.samples.video(rows[video_id][0]).fps)
        file = out / unit_name(video_id)
        if form == "npz":
            with open_atomic(file.with_name(f"{file.name}.npz")) as opened:
                np.savez(opened, features=features, frames=unit.frames, timestamps_ms=milliseconds)
        else:
            for ending, array in ((".frames.npy", unit.frames), (".npy", features)):
                with open_atomic(file.with_name(file.name + ending)) as opened:
                    np.save(opened, array)
        progress(done, len(videos))
    return len(videos)
