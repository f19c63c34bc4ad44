"""Draw scenes (textured, slowly changing background, objects, sensor noise), and encode frames as an mp4 file."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .scenes import COLOURS, Scene, Thing

Pixels = NDArray[np.uint8]
Shades = NDArray[np.float32]

PLAIN, STRIPED, FLASHING = range(3)
PAN = 24
"""Largest shift of the background during a video, in pixels along each axis."""


def draw(scene: Scene) -> Pixels:
    """Every frame of a scene: (frames, height, width, 3) uint8 RGB. Equal scenes give equal pixels."""
    rng = np.random.default_rng(scene.render_seed)
    video = _background(rng, scene)
    for tid, thing in enumerate(scene.things):
        styles = np.full(scene.frame_count, PLAIN)
        for event in scene.events:
            if event.subject == tid and event.predicate == "striped":
                styles[event.start : event.end] = STRIPED
            elif event.subject == tid and event.predicate == "flashes":
                lit = (np.arange(event.end - event.start) // 2) % 2 == 0  # two frames on, two frames off
                styles[event.start : event.end][lit] = FLASHING
        _paint(video, thing, styles)
    return video


def _background(rng: np.random.Generator, scene: Scene) -> Pixels:
    """Greyish smooth noise of two scales, plus a gradient, with a moving crop (camera) and varying brightness."""
    height, width = scene.height + PAN, scene.width + PAN
    texture = np.full((height, width, 3), rng.uniform(95, 135))
    for cells, strength in ((4, 45), (16, 22)):
        grey = rng.uniform(-1, 1, size=(cells * 3 // 4, cells, 1)) + rng.uniform(-0.3, 0.3, size=(1, 1, 3))
        coarse = np.uint8(np.clip(128 + strength * grey, 0, 255))
        texture += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)) - 128.0
    slope = rng.uniform(-25, 25, size=2)
    texture += (slope[0] * np.linspace(-1, 1, height)[:, None] + slope[1] * np.linspace(-1, 1, width))[..., None]
    texture = np.clip(texture, 25, 200).astype(np.int16)

    time = np.linspace(0, 1, scene.frame_count)
    ends = rng.integers(0, PAN + 1, size=(2, 2))  # (start and end, x and y)
    x, y = np.rint(ends[0][:, None] + (ends[1] - ends[0])[:, None] * time).astype(int)
    light = 64 * (1 + rng.uniform(0.05, 0.15) * np.sin(2 * np.pi * (rng.random() + rng.uniform(0.3, 1) * time)))
    # One plane of noise, read at a random offset in every frame, is much faster than new noise per frame.
    noise = np.int16(np.rint(rng.normal(0, 2, size=(scene.height + 64, scene.width + 64))))
    shifts = rng.integers(0, 65, size=(2, scene.frame_count))
    size = (scene.height, scene.width)
    frames = np.lib.stride_tricks.sliding_window_view(texture, size, axis=(0, 1))[y, x].transpose(0, 2, 3, 1)
    frames = frames * light.astype(np.int16)[:, None, None, None]  # at most 200 * 74: fits
    frames >>= 6
    frames += np.lib.stride_tricks.sliding_window_view(noise, size)[shifts[0], shifts[1]][..., None]
    return np.clip(frames, 0, 255, out=frames).astype(np.uint8)


def _paint(video: Pixels, thing: Thing, styles: NDArray[np.int64]) -> None:
    """Draw one object into all frames, for each of its sizes and styles at once."""
    sides = thing.boxes[:, 2] - thing.boxes[:, 0]
    looks, which = np.unique(np.stack([sides, styles], axis=1), axis=0, return_inverse=True)
    for look, (side, style) in enumerate(looks.tolist()):
        frames = np.flatnonzero(which == look)[:, None, None]
        steps = np.arange(side)
        rows = thing.boxes[frames, 1] + steps[:, None]
        columns = thing.boxes[frames, 0] + steps
        opacity, ink = _silhouette(thing.shape, side)[..., None], _ink(COLOURS[thing.colour], side, style)
        behind = video[frames, rows, columns]
        video[frames, rows, columns] = np.rint(behind * (1 - opacity) + ink * opacity).astype(np.uint8)


@lru_cache(maxsize=512)
def _silhouette(shape: str, side: int) -> Shades:
    """Opacity (side, side) in [0, 1] of a shape that touches all four edges, averaged over 4 x 4 points a pixel."""
    x, y = np.meshgrid(*[(np.arange(4 * side) + 0.5) / (2 * side) - 1] * 2)  # -1 to 1
    inside = {
        "circle": x**2 + y**2 <= 1,
        "square": np.ones_like(x, dtype=bool),
        "triangle": np.abs(x) <= (y + 1) / 2,
        "cross": (np.abs(x) <= 0.36) | (np.abs(y) <= 0.36),
    }[shape]
    return inside.reshape(side, 4, side, 4).mean((1, 3), dtype=np.float32)


def _ink(colour: tuple[int, int, int], side: int, style: int) -> Shades:
    """Colour of every pixel of an object's box: (side, side, 3). Stripes are dark and slanted, a flash is white."""
    ink = np.tile(np.array(colour, dtype=np.float32), (side, side, 1))
    steps = np.arange(side)
    if style == STRIPED:
        ink[(steps[:, None] + steps) % 8 < 4] = 15
    elif style == FLASHING:
        ink = 0.15 * ink + 0.85 * 255
    return ink


def write_video(path: Path, frames: Pixels, fps: Fraction) -> None:
    """Encode (frames, height, width, 3) uint8 RGB as H.264, yuv420p, in an mp4 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        options = {"preset": "ultrafast", "crf": "18", "g": "32", "threads": "1"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
