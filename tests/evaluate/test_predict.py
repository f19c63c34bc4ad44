"""A video of one's own: the same tube as from a cache, a film that shows it, and no harm from hostile words or files."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from stvg.cache.annotations import AnnotationSet
from stvg.cache.index import Cache
from stvg.cache.sampling import interpolate_boxes, video_grid
from stvg.cache.schema import Tube, Video
from stvg.cache.set_files import write_set
from stvg.cache.upkeep.merge import link_unit
from stvg.cache.upkeep.verify import verify
from stvg.errors import CacheError
from stvg.evaluate.evaluation import load_head, open_split, tubes_of
from stvg.evaluate.grounding.answers import Answer, Grounding
from stvg.evaluate.grounding.film import BAR, YELLOW
from stvg.evaluate.grounding.predictor import Predictor
from stvg.evaluate.grounding.predictor import asked as sample_of
from stvg.evaluate.grounding.request import Question
from stvg.evaluate.grounding.videos import clock_when_known, find_video, video_of
from stvg.evaluate.predictions import read_predictions
from stvg.extract.video.decode import probe
from stvg.heads.decision import Moment
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import train
from stvg.heads.training.state import Run

from ..conftest import extract_synthetic
from ..extract.test_clock import PAUSE, browser_recording, irregular
from ..extract.test_decode import write_video

CPU = torch.device("cpu")
TINY = {"backbone_weights": None, "text_weights": None, "tokenizer": None, "weights_seed": 0}

HOSTILE = ["<script>alert('x')</script> ../../etc", '‮reversed \x1b[31m 🙂 "quoted"', "a" * 10_000]


def frames_of(path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def annotated(folder, video, sentence, **changes):
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
    changes = {"dataset": "json", "splits": ["test"], "videos": video.parent, "levels": "last", **changes}
    return extract_synthetic(folder, folder / "cache", **changes)


def assert_same(found: Tube, expected: Tube) -> None:
    """The answer that was written is the tube of the head: its moment, and its boxes at every frame of it."""
    assert (found.start, found.end) == (expected.start, expected.end)
    assert found.frames.tolist() == [*range(int(expected.start), int(expected.end))]
    boxes = interpolate_boxes(expected.frames, expected.boxes, found.frames)
    np.testing.assert_allclose(found.boxes, boxes, atol=0.005001)


def as_stored(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_sentence_gets_the_tube_it_gets_from_a_cache(stvg, checkpoint, video, tmp_path):
    sentence = "what does the red circle do?"
    data = open_split(load_head(checkpoint, CPU), Cache.open(annotated(tmp_path, video, sentence)), "test")
    expected = tubes_of(load_head(checkpoint, CPU).model, data, 1, CPU)[1]
    ran = stvg("predict", video, sentence, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--no-video")
    assert ran.code == 0, ran.err
    found = read_predictions(tmp_path / "out" / "predictions.jsonl")[1]
    assert_same(found, expected)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.jsonl"]


@pytest.mark.parametrize("mode", ["text", "last-stage", "end-to-end"])
def test_a_head_that_trained_encoders_is_asked_with_those(stvg, synthetic, video, tmp_path, mode):
    """The same tube as from a cache of the video, through encoders that moved away from those its features are of."""
    trained_on = Cache.open(extract_synthetic(synthetic, tmp_path / "full", levels="full"))
    settings = ["train.epochs=1", "train.batch_size=8", "model.ffn=32", "model.max_frames=16"]
    settings += [f"train.mode={mode}", "train.lr_backbone=0.01", "train.lr_text=0.01", "train.ema=0"]
    run = Run(
        tmp_path / "run", trained_on, load_experiment("tiny", settings), "train", CPU, {"videos": video.parents[1]}
    )
    checkpoint = train(run)
    head, sentence = load_head(checkpoint, CPU), "what does the red circle do?"
    folder = tmp_path / "annotated"
    folder.mkdir()
    cache = Cache.open(annotated(folder, video, sentence, levels="full"))
    expected = tubes_of(head.model, open_split(head, cache, "test", video.parent), 1, CPU)[1]
    ran = stvg("predict", video, sentence, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--no-video")
    assert ran.code == 0, ran.err
    found = read_predictions(tmp_path / "out" / "predictions.jsonl")[1]
    assert_same(found, expected)
    assert found.score == expected.score
    with torch.no_grad():
        for weight in head.model.encoders.parameters():
            weight.zero_()
    without = tubes_of(head.model, open_split(head, cache, "test", video.parent), 1, CPU)[1]
    assert not np.array_equal(without.boxes, expected.boxes)


WITHOUT_BACKBONE = ["--no-video", "--backbone-weights", "nowhere.pth"]
"""The tiny backbone has no weights to load: with these words it cannot be built, and nothing can be extracted."""


def test_features_of_a_video_asked_of_before_are_read_whatever_it_is_called_and_whatever_is_asked(
    stvg, checkpoint, video, tmp_path
):
    words = ["--checkpoint", checkpoint, "--cache", tmp_path / "cache"]
    assert stvg("predict", video, "what moves?", *words, "--out", tmp_path / "a", "--no-video").code == 0
    (kept,) = (tmp_path / "cache").iterdir()
    before = as_stored(kept)
    assert verify(kept).problems == []
    renamed = shutil.copy(video, tmp_path / "other name.mp4")
    asked = ["what turns?", "what moves?"]
    ran = stvg("predict", renamed, *asked, *words, "--out", tmp_path / "b", *WITHOUT_BACKBONE)
    assert ran.code == 0, ran.err
    assert [*(tmp_path / "cache").iterdir()] == [kept]
    assert as_stored(kept) == before
    ran = stvg("predict", video, *asked, "--checkpoint", checkpoint, "--out", tmp_path / "c", "--no-video")
    assert ran.code == 0, ran.err
    answers = [(tmp_path / out / "predictions.jsonl").read_text() for out in "bc"]
    assert answers[0].replace("other name.mp4", video.name) == answers[1]
    assert {json.loads(line)["video"] for line in answers[0].splitlines()} == {"other name.mp4"}


def test_a_video_in_the_cache_of_an_extraction_is_neither_decoded_nor_needed(stvg, checkpoint, video, tmp_path):
    cache = annotated(tmp_path, video, "an annotated sentence")
    before = as_stored(cache)
    gone = tmp_path / "gone" / video.name
    words = ["what does the red circle do?", "--checkpoint", checkpoint]
    ran = stvg("predict", gone, *words, "--cache", cache, "--out", tmp_path / "a", *WITHOUT_BACKBONE)
    assert ran.code == 0, ran.err
    assert stvg("predict", video, *words, "--out", tmp_path / "b", "--no-video").code == 0
    found, expected = (read_predictions(tmp_path / out / "predictions.jsonl")[1] for out in "ab")
    assert (found.start, found.end, found.score) == (expected.start, expected.end, expected.score)
    assert np.array_equal(found.boxes, expected.boxes)
    assert as_stored(cache) == before


def test_an_extraction_with_other_encoders_is_refused_field_by_field(stvg, checkpoint, video, tmp_path):
    cache = annotated(tmp_path, video, "what?", resolution=64)
    words = ["what?", "--checkpoint", checkpoint, "--cache", cache, "--out", tmp_path / "out"]
    ran = stvg("predict", video, *words)
    assert ran.code == 1
    assert "resolution trained on 96, found 64" in ran.err
    assert "max_side   trained on 160, found 107" in ran.err
    assert not (tmp_path / "out").exists()


def test_heads_of_other_features_share_a_folder_and_never_a_videos_features(checkpoint, video, tmp_path):
    head = load_head(checkpoint, CPU)
    finer = replace(head, recipe=replace(head.recipe, resolution=128, max_side=213))
    for each in (head, finer, head):
        Predictor(each, TINY, tmp_path, CPU).ground(Question(video, ("what?",)))
    kept = [Cache.open(place).recipe.resolution for place in tmp_path.iterdir()]
    assert sorted(kept) == [96, 128]


def test_a_file_of_another_folder_is_not_taken_for_the_extracted_one_of_its_name(stvg, checkpoint, video, tiny_cache):
    words = ["what?", "--checkpoint", checkpoint, "--cache", tiny_cache, "--no-video"]
    ran = stvg("predict", f"elsewhere/{video.name}", *words)
    assert ran.code == 1
    assert f"does not hold elsewhere/{video.name}" in ran.err


def with_frames(held: Cache, frames: int, out: Path) -> Path:
    """The cache of one video, whose annotation says that it has so many frames."""
    video = replace(held.samples[0].video, frame_count=frames)
    begun = Cache.create(out, held.recipe, "zarr", {})
    begun.annotate(AnnotationSet.of("json", "json", [replace(held.samples[0], video=video)]))
    for key in ["videos/v", *held.store.keys("text")]:
        assert link_unit(held.store, begun.store, key, key)
    return out


def test_a_video_of_which_an_extraction_holds_a_part_is_refused(stvg, checkpoint, video, tmp_path):
    held = Cache.open(annotated(tmp_path, video, "what?"))
    part = with_frames(held, held.samples[0].video.frame_count + 50, tmp_path / "part")
    words = ["what?", "--checkpoint", checkpoint, "--cache", part, "--out", tmp_path / "out"]
    ran = stvg("predict", tmp_path / "gone" / video.name, *words)
    assert ran.code == 1
    assert "holds a part of" in ran.err
    assert not (tmp_path / "out").exists()


def test_a_video_whose_last_frame_was_not_extracted_is_grounded_in_the_others(stvg, checkpoint, video, tmp_path):
    held = Cache.open(annotated(tmp_path, video, "what?"))
    frames = held.unit("v").frames
    longer = with_frames(held, int(2 * frames[-1] - frames[-2]) + 1, tmp_path / "longer")
    words = ["what?", "--checkpoint", checkpoint, "--out", tmp_path / "out", *WITHOUT_BACKBONE]
    ran = stvg("predict", tmp_path / "gone" / video.name, *words, "--cache", longer)
    assert ran.code == 0, ran.err
    found = read_predictions(tmp_path / "out" / "predictions.jsonl")[1]
    assert found.frames[-1] <= frames[-1]


def test_a_file_that_is_not_the_extracted_one_is_refused_though_it_is_called_so(stvg, checkpoint, video, tmp_path):
    cache = annotated(tmp_path, video, "what?")
    (tmp_path / "other").mkdir()
    other = write_video(tmp_path / "other" / video.name, 20)
    words = ["what?", "--checkpoint", checkpoint, "--cache", cache, "--no-video"]
    ran = stvg("predict", other, *words)
    assert ran.code == 1
    assert "another number of frames" in ran.err
    assert f"{len(frames_of(video))} frames" in ran.err


def test_a_file_whose_content_is_not_the_extracted_one_is_refused(stvg, checkpoint, video, tmp_path):
    cache = annotated(tmp_path, video, "what?")
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / video.name
    other.write_bytes(video.read_bytes() + b"\0")
    words = ["what?", "--checkpoint", checkpoint, "--cache", cache, "--no-video", "--out", tmp_path / "out"]
    ran = stvg("predict", other, *words)
    assert ran.code == 1
    assert f"holds the features of another file than {other}" in ran.err
    other.write_bytes(video.read_bytes())
    assert stvg("predict", other, *words).code == 0


@pytest.fixture
def cache_of(tmp_path):
    """``cache_of(paths, more paths, …)``: as much of a cache as says which videos are in it, one annotation set a list."""

    def cache_of(*sets: list[str]) -> SimpleNamespace:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        for number, paths in enumerate(sets):
            samples = [sample_of(i, Video(path, path, 64, 48, 5, 9), "what?", 9) for i, path in enumerate(paths)]
            write_set(place, AnnotationSet.of(f"set{number}", "json", samples))
        return SimpleNamespace(path=place, unit_keys=lambda video_id: [video_id])

    return cache_of


def test_a_file_is_the_video_whose_path_it_ends_with_and_two_such_are_named(cache_of):
    def found(*sets: list[str], file: str) -> tuple[str, str]:
        annotations, video = find_video(cache_of(*sets), Path(file))
        return annotations.name, video.path

    assert found(["1006/22.mp4", "1007/22.mp4"], file="vidor/video/1006/22.mp4") == ("set0", "1006/22.mp4")
    assert found(["front.mp4"], ["b/front.mp4", "c.mp4"], file="b/c.mp4") == ("set1", "c.mp4")
    assert found(["front.mp4", "b/front.mp4"], file="a/front.mp4") == ("set0", "front.mp4")
    with pytest.raises(CacheError, match=r"several videos .*(?s:.)*found +front.mp4, a/front.mp4"):
        found(["front.mp4", "a/front.mp4"], ["b/front.mp4"], file="a/front.mp4")
    with pytest.raises(CacheError, match=r"does not hold .*(?s:.)*found +a/front.mp4, b/front.mp4"):
        found(["a/front.mp4", "b/front.mp4", "c/x.mp4"], file="d/front.mp4")


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_moment_is_told_and_shown_in_the_seconds_of_the_time_stamps(stvg, checkpoint, tmp_path, suffix):
    """A video that pauses for 24 s; the container states 25 frames a second, or 2.3 on average."""
    file = write_video(tmp_path / f"pause.{suffix}", 60, pts=PAUSE.__getitem__)
    ran = stvg("predict", file, "what moves?", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    tube = read_predictions(tmp_path / "out" / "predictions.jsonl")[1]
    clock = probe(file).clock
    assert f"{clock.seconds(tube.start):.1f}–{clock.seconds(tube.end):.1f} s" in ran.out
    np.testing.assert_allclose(probe(tmp_path / "out" / "1.mp4").clock.starts, clock.starts, atol=1e-3)


def test_a_recording_without_a_rate_is_looked_at_as_often_as_any_other(tmp_path):
    stamps = irregular(90)
    found = video_of(browser_recording(tmp_path / "live.webm", stamps), "v", 5)
    assert found.fps == pytest.approx(90_000 / stamps[-1], rel=0.02)
    assert len(video_grid([(0, 90)], found.fps, 5)) == pytest.approx(stamps[-1] / 200, abs=1)


def test_an_assumed_rate_is_never_shown_as_seconds(tmp_path, tiny_cache):
    """HC-STVG's annotations state none: its clips are taken to last 20 s, and this one lasts 2.4."""
    file = write_video(tmp_path / "a.mp4", 60)
    video = Video("a.mp4", "a.mp4", 208, 48, 3, 60)
    hcstvg, others = (SimpleNamespace(annotations=SimpleNamespace(dataset=name)) for name in ("hcstvg-v1", "vidstg"))
    assert clock_when_known(hcstvg, video, file).end == pytest.approx(2.4)
    assert clock_when_known(hcstvg, video, tmp_path / "gone.mp4") is None
    assert clock_when_known(others, video, tmp_path / "gone.mp4").end == 20
    tube = Tube(1, 0, 30, np.array([0]), np.zeros((1, 4)))
    found = Grounding(video, [Answer("what?", tube, [Moment(0, 30, 0.5)])], None, Path("v.mp4"))
    assert found.seconds(Moment(0, 30, 0.5)) is None
    assert [found.lines()[0][name] for name in ("fps", "start_seconds", "end_seconds")] == [None] * 3


def test_a_cache_that_cannot_be_written_and_a_video_that_never_ends_are_said_to_be(stvg, checkpoint, video, tmp_path):
    (tmp_path / "file").write_text("no folder")
    os.mkfifo(tmp_path / "endless.mp4")
    words = ["what?", "--checkpoint", checkpoint, "--out", tmp_path / "out"]
    never = (tmp_path / "endless.mp4", "kept", "is not a file")
    for asked, cache, says in ((video, "file", "file cannot be written"), never):
        ran = stvg("predict", asked, *words, "--cache", tmp_path / cache)
        assert ran.code == 1
        assert says in ran.err
    assert not (tmp_path / "out").exists()


def test_a_video_that_cannot_be_extracted_leaves_nothing_in_the_cache(stvg, checkpoint, video, tmp_path):
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:-500])
    words = ["what?", "--checkpoint", checkpoint, "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    ran = stvg("predict", tmp_path / "cut.mp4", *words)
    assert ran.code == 1
    assert "VideoError" in ran.err
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


def test_the_film_has_every_frame_and_the_box_inside_the_moment_only(stvg, checkpoint, video, tmp_path):
    ran = stvg("predict", video, "what moves?", "what turns?", "--checkpoint", checkpoint, "--out", tmp_path)
    assert ran.code == 0, ran.err
    original = frames_of(video)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.mp4", "2.mp4", "predictions.jsonl"]
    for number, tube in read_predictions(tmp_path / "predictions.jsonl").items():
        film = frames_of(tmp_path / f"{number}.mp4")
        assert len(film) == len(original)
        height, width = original[0].shape[:2]
        top = film[0].shape[0] - height
        assert film[0].shape == (top + height, width, 3)
        bar = np.abs(film[0][top - BAR // 2].astype(int) - YELLOW).sum(-1) < 60
        assert bar.mean() == pytest.approx((tube.end - tube.start) / len(film), abs=0.1)
        yellow = [np.abs(f[top:].astype(int) - YELLOW).sum(-1) < 60 for f in film]
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
        (["what?", "\udcff"], "sentence 2 is no text"),
        (["what?", "--weights-seed", "7"], "other features than this head was trained on"),
        ([], "Missing argument"),
    ],
    ids=["empty sentence", "half a character", "other encoders", "no sentence"],
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
