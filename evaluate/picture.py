"""Draw a grounding: frames of the video side by side, the annotated box green, the predicted box yellow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..atomic import open_atomic
from ..cache.batches.dataset import CachedDataset
from ..cache.sampling import FloatArray, IntArray, interpolate_boxes, slots_in
from ..cache.schema import Sample, Span, Tube, has_boxes
from .metrics import score_sample

GREEN, YELLOW, INK, PAPER, GREY = (40, 200, 80), (250, 210, 40), (30, 30, 34), (255, 255, 255), (205, 205, 210)
COLUMNS, LEAST, FRAME_WIDTH, GAP, BAR = 6, 3, 240, 8, 14


def draw_strip(dataset: CachedDataset, tubes: Mapping[int | str, Tube], videos: Path, out: Path) -> Path:
    """Draw the sample of median vIoU, which is neither the best nor the worst. Returns ``out``."""
    from ..extract.video.decode import read_frames

    scored = []
    for position in range(len(dataset)):
        sample = dataset[position].sample
        scored.append((score_sample(sample, tubes[sample.sample_id], "dense", dataset.sampling).vIoU, position))
    viou, position = sorted(scored)[len(scored) // 2]
    sample = dataset[position].sample
    tube = tubes[sample.sample_id]
    frames = chosen_frames(sample.segment, sample.moment)
    video = sample.video
    pixels = np.concatenate(list(read_frames(videos / video.path, frames, width=video.width, height=video.height)))
    picture = compose(sample, tube, frames, pixels, viou)
    with open_atomic(out) as file:
        picture.save(file, format="PNG")
    return out


def answer_strip(file: Path, sample: Sample, tube: Tube) -> Image.Image:
    """Draw a predicted tube on a video file that has no annotation."""
    from ..extract.video.decode import read_frames

    frames = chosen_frames(sample.segment, (tube.start, tube.end))
    pixels = read_frames(file, frames, width=sample.video.width, height=sample.video.height)
    return compose(sample, tube, frames, np.concatenate(list(pixels)))


def chosen_frames(segment: Span, moment: tuple[float, float]) -> IntArray:
    """At most six frames: the first and last of the segment, and four evenly spaced in the moment."""
    start, end = segment
    inside = np.linspace(moment[0], min(moment[1], end) - 1, COLUMNS - 2).clip(start, end - 1)
    return np.unique(np.concatenate([[start], np.rint(inside), [end - 1]]).astype(np.int64))


def compose(
    sample: Sample, tube: Tube | None, frames: IntArray, pixels: np.ndarray, viou: float | None = None
) -> Image.Image:
    """Draw frames with their boxes, the sentence above them, and the moments on the segment's time line below them.

    ``tube``: None draws the annotation only. ``viou``: vIoU of the tube; None draws the tube without the annotated
    moment.
    """
    height = round(FRAME_WIDTH * sample.video.height / sample.video.width)
    width = GAP + max(LEAST, len(frames)) * (FRAME_WIDTH + GAP)
    picture = Image.new("RGB", (width, height + 150), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, 10), f"“{sample.sentence}”", fill=INK, font=ImageFont.load_default(20))
    truth = sample.boxes_at(frames)
    guess = interpolate_boxes(tube.frames, tube.boxes, frames) if tube else truth
    shown = slots_in(frames, (tube.start, tube.end) if tube else (0, 0))
    for i, frame in enumerate(frames.tolist()):
        left, top = GAP + i * (FRAME_WIDTH + GAP), 44
        picture.paste(Image.fromarray(pixels[i]).resize((FRAME_WIDTH, height)), (left, top))
        scale = FRAME_WIDTH / sample.video.width
        if has_boxes(truth[i]):
            _box(draw, truth[i] * scale, (left, top), GREEN)
        if shown[i]:
            _box(draw, guess[i] * scale, (left, top), YELLOW)
        draw.text((left, top + height + 4), f"frame {frame}", fill=INK, font=ImageFont.load_default(13))
    top = height + 78
    if tube:
        _bar(draw, sample.segment, (tube.start, tube.end), top + BAR + 8, width, YELLOW, "predicted")
    if tube and viou is None:
        return picture
    _bar(draw, sample.segment, sample.moment, top, width, GREEN, "annotated")
    caption = f"sample {sample.sample_id}, moment [{sample.moment[0]}, {sample.moment[1]}) of {sample.video.path}"
    if tube:
        caption = (
            f"green: ground truth   yellow: prediction   vIoU over every frame {viou:.2f} (the median of this split)"
        )
    draw.text((GAP, top + 2 * BAR + 20), caption, fill=INK, font=ImageFont.load_default(13))
    return picture


def _box(draw: ImageDraw.ImageDraw, box: FloatArray, offset: tuple[int, int], colour: tuple[int, int, int]) -> None:
    x1, y1, x2, y2 = (float(v) + offset[i % 2] for i, v in enumerate(box))
    draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=3)


def _bar(
    draw: ImageDraw.ImageDraw,
    segment: tuple[int, int],
    span: tuple[float, float],
    top: int,
    width: int,
    colour: tuple[int, int, int],
    label: str,
) -> None:
    left, right = GAP + 90, width - GAP
    draw.text((GAP, top - 2), label, fill=INK, font=ImageFont.load_default(13))
    draw.rectangle((left, top, right, top + BAR), fill=GREY)
    scale = (right - left) / (segment[1] - segment[0])
    start, end = (left + (min(max(v, segment[0]), segment[1]) - segment[0]) * scale for v in span)
    draw.rectangle((start, top, max(start, end), top + BAR), fill=colour)
