"""A video of one's own: the same tube as from a cache, a film that shows it, and no harm from hostile words or files."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest
import torch

from stvg.cache.index import Cache
from stvg.evaluate.evaluation import load_head, open_split, tubes_of
from stvg.evaluate.predict import BAR, YELLOW
from stvg.evaluate.predictions import read_predictions
from stvg.extract.decode import probe
from stvg.heads.experiment import load_experiment
from stvg.heads.run import Run
from stvg.heads.train import train

from ..conftest import extract_synthetic

CPU = torch.device("cpu")

HOSTILE = ["<script>alert('x')</script> ../../etc", '‮reversed \x1b[31m 🙂 "quoted"', "a" * 10_000]


@pytest.fixture(scope="module")
def checkpoint(tiny_cache, tmp_path_factory):
    experiment = load_experiment(
        "tiny", ["train.epochs=1", "train.batch_size=8", "model.ffn=32", "model.max_frames=16"]
    )
    return train(Run(tmp_path_factory.mktemp("run"), Cache.open(tiny_cache), experiment, "train", CPU))


@pytest.fixture(scope="module")
def video(synthetic):
    return min(synthetic.rglob("*.mp4"))


def frames_of(path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def annotated(folder, video, sentence):
    """The same question as annotated data: the whole video, and a box somewhere."""
    facts = probe(video)
    known = {
        "file": video.name,
        "width": facts.width,
        "height": facts.height,
        "fps": facts.fps,
        "frame_count": facts.frames,
    }
    boxes = {"0": [10, 10, 60, 60], "20": [20, 10, 60, 60]}
    sample = {"id": 1, "video": "v", "sentence": sentence, "moment": [0, 21], "boxes": boxes, "interpolate": True}
    (folder / "test.json").write_text(json.dumps({"videos": {"v": known}, "samples": [sample]}))
    changes = {"dataset": "json", "splits": ["test"], "videos": video.parent, "levels": "c5"}
    return extract_synthetic(folder, folder / "cache", **changes)


def test_a_sentence_gets_the_tube_it_gets_from_a_cache(stvg, checkpoint, video, tmp_path):
    sentence = "what does the red circle do?"
    data = open_split(load_head(checkpoint, CPU), Cache.open(annotated(tmp_path, video, sentence)), "test")
    expected = tubes_of(load_head(checkpoint, CPU).model, data, 1, CPU)[1]
    ran = stvg("predict", video, sentence, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--no-video")
    assert ran.code == 0, ran.err
    found = read_predictions(tmp_path / "out" / "predictions.jsonl")[1]
    assert (found.start, found.end) == (expected.start, expected.end)
    assert found.frames.tolist() == expected.frames.tolist()
    assert np.array_equal(found.boxes, expected.boxes)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.jsonl"]


def test_the_film_has_every_frame_and_the_box_inside_the_moment_only(stvg, checkpoint, video, tmp_path):
    ran = stvg("predict", video, "what moves?", "what turns?", "--checkpoint", checkpoint, "--out", tmp_path)
    assert ran.code == 0, ran.err
    original = frames_of(video)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.mp4", "2.mp4", "predictions.jsonl"]
    for number, tube in read_predictions(tmp_path / "predictions.jsonl").items():
        film = frames_of(tmp_path / f"{number}.mp4")
        assert len(film) == len(original)
        height, width = original[0].shape[:2]
        assert film[0].shape == (height + BAR, width, 3)
        yellow = [np.abs(f[:height].astype(int) - YELLOW).sum(-1) < 60 for f in film]
        plain = [np.abs(f.astype(int) - YELLOW).sum(-1) < 60 for f in original]
        more = np.array([(a & ~b).sum() for a, b in zip(yellow, plain, strict=True)])
        inside = (np.arange(len(film)) >= tube.start) & (np.arange(len(film)) < tube.end)
        assert more[inside].mean() > 30
        assert more[~inside].mean() < 5 if (~inside).any() else True


def test_hostile_sentences_are_shown_as_text_and_name_no_file(stvg, checkpoint, video, tmp_path):
    folder = tmp_path / "out"
    ran = stvg("predict", video, *HOSTILE, "--checkpoint", checkpoint, "--out", folder, "--no-video")
    assert ran.code == 0, ran.err
    assert not {"\x1b", "‮"} & set(ran.out)
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "predictions.jsonl"]
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["sentence"] for line in lines] == HOSTILE


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([" "], "sentence 1 is empty"),
        (["what?", "--weights-seed", "7"], "other features than this head was trained on"),
        ([], "Missing argument"),
    ],
    ids=["empty sentence", "other encoders", "no sentence"],
)
def test_what_cannot_be_answered_is_refused_before_anything_is_written(stvg, checkpoint, video, tmp_path, words, says):
    ran = stvg("predict", video, *words, "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert ran.code in (1, 2)
    assert says in ran.err
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_video_is_named(stvg, checkpoint, tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"nothing")
    ran = stvg("predict", tmp_path / "x.mp4", "what?", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert ran.code == 1
    assert "x.mp4" in ran.err
    assert "Traceback" not in ran.err
    assert not (tmp_path / "out").exists()
