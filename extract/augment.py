"""The paper's training augmentation: a random resize, with probability 1/2 after a random crop. One draw per clip."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..cache.sampling import FloatArray
from ..cache.schema import Recipe, Video
from ..cache.view import MAX_SIDE, Crop, View, resized

TRIES = 100


@dataclass(frozen=True)
class Ranges:
    """Possible sizes, in pixels, for one evaluation resolution."""

    short_sides: tuple[int, ...]
    """Short sides of the final picture; its long side is at most the evaluation's."""
    before_crop: tuple[int, ...]
    """Short sides of the picture before the crop."""
    smallest_crop: int


# The baseline's, for the paper's three resolutions.
RANGES = {
    224: Ranges((128, 160, 192, 224), (100, 150, 200), 96),
    320: Ranges((192, 224, 256, 288, 320), (200, 240, 280), 160),
    352: Ranges((224, 256, 288, 320, 352), (200, 250, 300), 192),
}


def ranges(resolution: int) -> Ranges:
    """The table's row; for other resolutions, that of 224 scaled in proportion."""
    if resolution in RANGES:
        return RANGES[resolution]

    def scaled(sizes: Sequence[int]) -> tuple[int, ...]:
        return tuple(max(1, round(size * resolution / 224)) for size in sizes)

    base = RANGES[224]
    return Ranges(scaled(base.short_sides), scaled(base.before_crop), scaled([base.smallest_crop])[0])


def draw_view(rng: np.random.Generator, video: Video, resolution: int, boxes: FloatArray) -> View:
    """A random view of a video that contains at least a part of every box (n, 4; source pixels).

    With probability 1/2 a resize only; else a resize, a crop and a resize. A crop that loses a box is drawn again;
    after 100 attempts the view has no crop.
    """
    chosen = ranges(resolution)
    crop = None if rng.random() < 0.5 else draw_crop(rng, video, resolution, boxes)
    shown = (crop.cut_width, crop.cut_height) if crop else (video.width, video.height)
    size = resized(*shown, int(rng.choice(chosen.short_sides)), MAX_SIDE[resolution])
    return View(video.width, video.height, *size, crop)


def draw_crop(rng: np.random.Generator, video: Video, resolution: int, boxes: FloatArray) -> Crop | None:
    """A crop that keeps a part of every box with an area; None if none was found in TRIES attempts."""
    chosen = ranges(resolution)
    width, height = resized(video.width, video.height, int(rng.choice(chosen.before_crop)))
    scaled = np.clip(boxes, 0, [video.width, video.height] * 2) * ([width / video.width, height / video.height] * 2)
    scaled = scaled[areas(scaled) > 0]
    for _ in range(TRIES):
        cut = [
            int(rng.integers(min(chosen.smallest_crop, s), min(s, MAX_SIDE[resolution]) + 1)) for s in (width, height)
        ]
        left, top = (int(rng.integers(0, side - c + 1)) for side, c in zip((width, height), cut, strict=True))
        kept = np.clip(scaled, [left, top] * 2, [left + cut[0], top + cut[1]] * 2)
        if (areas(kept) > 0).all():
            return Crop(width, height, left, top, cut[0], cut[1])
    return None


def areas(boxes: FloatArray) -> FloatArray:
    """Areas (n,) of xyxy boxes (n, 4)."""
    return (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(1)


def stored_views(video: Video, recipe: Recipe) -> list[View]:
    """The stored views of one video: the evaluation's, then random ones.

    Random views depend on the recipe's seed, the video's id and its size, but not on annotations. So a view may miss a
    target; the target is then trained with the other views.
    """
    views = [View.evaluation(video.width, video.height, recipe.resolution, recipe.max_side)]
    for k in range(1, recipe.views):
        content = f"{recipe.views_seed} {video.video_id} {k}"
        digest = hashlib.sha256(content.encode(errors="surrogatepass")).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        views.append(draw_view(rng, video, recipe.resolution, np.empty((0, 4))))
    return views
