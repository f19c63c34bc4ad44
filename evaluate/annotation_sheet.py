"""Draw annotations: for each sample, the sentence and frames of its moment with the box.

The picture shows whether frames, coordinates and videos match.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..atomic import open_atomic
from ..cache.schema import Sample
from ..config import nearest
from ..errors import UsageError, VideoError
from ..extract.video.decode import read_frames
from ..extract.video.video_files import find_video_files, require_some
from .picture import COLUMNS, PAPER, compose


def spread_over(samples: Sequence[Sample], ids: Sequence[str], count: int) -> list[Sample]:
    """The samples with these ids. Without ids: at most ``count`` samples, evenly spaced.

    Raises UsageError if there is no sample, or for an unknown id.
    """
    if not samples:
        raise UsageError("there is no sample to show", hint="stvg dataset check names every fault")
    by_id = {str(sample.sample_id): sample for sample in samples}
    for wanted in ids:
        if wanted not in by_id:
            raise UsageError(f"no sample {wanted}", hint=nearest(wanted, list(by_id)[:1000]))
    if ids:
        return [by_id[wanted] for wanted in ids]
    return [samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, count).astype(int)).tolist()]


def draw_sheet(samples: Sequence[Sample], videos: Path, dataset: str, out: Path) -> None:
    """Write a PNG with one strip per sample, stacked vertically.

    ``dataset``: its rules assign files to videos. Raises VideoError if a file is missing or does not match the
    annotation.
    """
    files = find_video_files({s.video.video_id: s.video for s in samples}.values(), videos, dataset)
    require_some(files, videos)
    strips = []
    for sample in samples:
        if isinstance(file := files[sample.video.video_id], VideoError):
            raise file
        start, end = sample.moment[0], min(sample.moment[1], sample.video.frame_count)
        frames = np.unique(np.rint(np.linspace(start, end - 1, COLUMNS)).astype(np.int64))
        pixels = read_frames(file, frames, width=sample.video.width, height=sample.video.height)
        strips.append(compose(sample, None, frames, np.concatenate(list(pixels))))
    sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    with open_atomic(out) as file_out:
        sheet.save(file_out, format="PNG")
