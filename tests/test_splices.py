"""Spliced videos: exact moments and boxes, and nothing that is tested was trained on."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest

from stvg.extract.synthetic.drawing import write_video
from stvg.extract.video.decode import read_frames

from .benchmarks.splices import CANVAS, PARTS, read_clips, splice, turned

SIZE, LENGTH = (160, 96), 40
"""Width and height of a clip, and its frames, at ten a second."""


def square(clip, frame):
    """The box, xyxy, of a clip's white square at a frame."""
    x, y = 8 + 12 * clip + frame, 10 + 8 * clip
    return [x, y, x + 24, y + 32]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four clips of a white square on dark grey; the last is held out."""
    folder = tmp_path_factory.mktemp("clips")
    videos, samples = {}, []
    for clip in range(4):
        frames = np.full((LENGTH, SIZE[1], SIZE[0], 3), 30, np.uint8)
        for number, picture in enumerate(frames):
            x1, y1, x2, y2 = square(clip, number)
            picture[y1:y2, x1:x2] = 255
        write_video(folder / "videos" / f"c{clip}.mp4", frames, Fraction(10))
        facts = {"width": SIZE[0], "height": SIZE[1], "fps": 10, "frame_count": LENGTH}
        videos[f"c{clip}"] = {"file": f"c{clip}.mp4", **facts}
        boxes = {str(n): square(clip, n) for n in range(LENGTH)}
        for kind in "abcd":
            text = f"the left square {kind} of clip {clip}"
            sample = {"id": f"c{clip}/square/{kind}", "video": f"c{clip}", "sentence": text, "target": "square"}
            samples.append(sample | {"type": "declarative", "moment": [0, LENGTH], "boxes": boxes})
    (folder / "annotations.json").write_text(json.dumps({"videos": videos, "samples": samples}))
    (folder / "splits.json").write_text(json.dumps({"heldout_clips": ["c3"]}))
    return folder


@pytest.fixture(scope="module")
def spliced(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("spliced")
    splice(clips, out, 6, seed=0)
    return out


def annotations(out, split):
    return json.loads((out / "annotations" / f"{split}.json").read_text())


def test_equal_seeds_make_equal_annotations_and_others_do_not(clips, spliced, tmp_path):
    splice(clips, tmp_path / "again", 6, seed=0)
    splice(clips, tmp_path / "other", 6, seed=1)
    assert annotations(tmp_path / "again", "train") == annotations(spliced, "train")
    assert annotations(tmp_path / "other", "train") != annotations(spliced, "train")


def test_boxes_and_moments_are_where_the_pictures_show_the_square(spliced):
    """Cut, moved, zoomed, mirrored and coloured pieces included. One piece alone is checked at each frame."""
    width, height = CANVAS
    for split in ("train", "val", "seen", "unseen"):
        content = annotations(spliced, split)
        for sample in content["samples"]:
            start, end = sample["moment"]
            assert set(map(int, sample["boxes"])) == set(range(start, end))
            file = spliced / "videos" / content["videos"][sample["video"]]["file"]
            frames = np.concatenate(list(read_frames(file, np.arange(start, end), width=width, height=height)))
            for picture, number in zip(frames, range(start, end), strict=True):
                light = np.argwhere(picture.mean(-1) > 128)
                (top, left), (bottom, right) = light.min(0), light.max(0) + 1
                np.testing.assert_allclose(sample["boxes"][str(number)], [left, top, right, bottom], atol=3)


def test_no_sentence_and_no_part_of_a_clip_is_trained_on_and_tested(spliced):
    asked = {
        split: {s["target"] for s in annotations(spliced, split)["samples"]} for split in PARTS if split != "moments"
    }
    assert not asked["train"] & asked["val"]
    assert not (asked["train"] | asked["val"]) & asked["seen"]
    assert {name.split("/")[0] for name in asked["unseen"]} == {"c3"}
    assert not any(name.startswith("c3") for split in ("train", "val", "seen") for name in asked[split])
    assert PARTS["train"][1] <= PARTS["val"][0]
    assert PARTS["val"][1] <= PARTS["seen"][0]


def test_a_mirrored_piece_is_asked_for_with_left_and_right_exchanged(spliced):
    assert (
        turned("the left one turns right at the leftmost rightly") == "the right one turns left at the leftmost rightly"
    )
    texts = {s["sentence"].split()[1] for s in annotations(spliced, "train")["samples"]}
    assert texts == {"left", "right"}
    assert {s["sentence"].split()[1] for s in annotations(spliced, "seen")["samples"]} == {"left"}


def test_frames_of_a_clip_are_looked_at_ten_times_a_second(clips):
    found, held_out = read_clips(clips)
    assert held_out == {"c3"}
    assert [len(clip.slots) for clip in found] == [LENGTH] * 4


def test_clips_without_held_out_ones_and_without_partial_moments_make_no_such_split(clips, tmp_path):
    for name in ("videos", "annotations.json"):
        (tmp_path / "clips" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "clips" / name).symlink_to(clips / name)
    splice(tmp_path / "clips", tmp_path / "out", 2, seed=0)
    assert {f.stem for f in (tmp_path / "out/annotations").iterdir()} == {"train", "val", "seen"}
