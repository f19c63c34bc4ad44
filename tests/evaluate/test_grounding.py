"""What is asked of videos, what is written of the answers, and what is said of a head that was trained on other data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from stvg.cache.index import Cache
from stvg.cache.schema import Tube, Video
from stvg.errors import PredictionError, StvgError, UsageError, VideoError
from stvg.evaluate.evaluation import load_head
from stvg.evaluate.grounding.answers import Answer, Grounding
from stvg.evaluate.grounding.film import AMBER, BAR, YELLOW, write_films
from stvg.evaluate.grounding.folder import require_room, write_answers
from stvg.evaluate.grounding.request import MOST, Ground, Question, answered, questions_about
from stvg.extract.video.clock import Clock
from stvg.extract.video.decode import probe
from stvg.heads.decision import Moment
from stvg.heads.seen import Seen

from ..conftest import Ran
from ..extract.test_decode import write_video


def a_grounding(file: Path, *sentences: str, **changes: object) -> Grounding:
    """Of 60 frames at 25 a second: the likeliest moment [10, 20), another one [40, 50), and one box."""
    video = Video(file.name, file.name, 208, 48, 25.0, 60)
    tube = Tube(1, 10, 20, np.array([0, 59]), np.array([[20.0, 10, 60, 40], [79.0, 10, 119, 40]]), 0.9, 0)
    answers = [Answer(sentence, tube, [Moment(10, 20, 0.5), Moment(40, 50, 0.25)]) for sentence in sentences]
    return replace(Grounding(video, answers, Clock.steady(60, 25.0), file), **changes)


# What is asked --------------------------------------------------------------------------------------------------------


def test_a_folder_asks_every_video_below_it_and_names_each_by_its_path(tmp_path: Path) -> None:
    for name in ("b.mp4", "a/b.MKV", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = questions_about(tmp_path, ["what?", "who?"])
    assert [(q.shown, q.file, q.sentences) for q in found] == [
        (name, tmp_path / name, ("what?", "who?")) for name in ("a/b.MKV", "b.mp4")
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no video"):
        questions_about(tmp_path / "empty", ["what?"])


def test_a_table_asks_its_sentences_of_its_videos_which_lie_beside_it(tmp_path: Path) -> None:
    table = tmp_path / "asked.csv"
    table.write_text('\ufeffsentence,video\n"one, two",a/x.mp4\nthree,y.mp4\nfour,a/x.mp4\n', encoding="utf-8")
    found = questions_about(table, [])
    assert [(q.shown, q.file, q.sentences) for q in found] == [
        ("a/x.mp4", tmp_path / "a/x.mp4", ("one, two", "four")),
        ("y.mp4", tmp_path / "y.mp4", ("three",)),
    ]
    with pytest.raises(UsageError, match="brings its own sentences"):
        questions_about(table, ["what?"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"video,sentence\n", "asks nothing"),
        (b"", "no column 'video'"),
        (b"video,text\nx.mp4,what?\n", "no column 'sentence'"),
        (b"video|sentence\nx.mp4|what?\n", "no column 'video'.*commas, semicolons or tabs.*'video.sentence'"),
        (b"video,sentence\nx.mp4,what?\n,who?\n", "line 3, video: empty"),
        (b"video,sentence\nx.mp4, \n", "line 2, sentence: empty"),
        (b"video,sentence\nx.mp4,a dog, running\n", "line 2: more cells than columns"),
        (b"video,sentence\nx.mp4,caf\xe9\n", "line 2: not a CSV file"),
    ],
    ids=["no row", "empty", "another column", "bars", "no video", "no sentence", "no quotes", "no text"],
)
def test_a_table_that_does_not_say_what_is_asked_is_refused_with_the_line(
    tmp_path: Path, text: bytes, says: str
) -> None:
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(UsageError) as error:
        questions_about(tmp_path / "t.csv", [])
    assert re.search(says, str(error.value), re.DOTALL)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_may_be_separated_as_spreadsheets_of_any_country_do(tmp_path: Path, separator: str) -> None:
    rows = [("id", "Video", "sentence"), ("1", "x.mp4", "what?"), ("2", "y.mp4", '"one, two; three"')]
    (tmp_path / "t.csv").write_text("\r\n".join(map(separator.join, rows)), encoding="utf-8-sig")
    found = questions_about(tmp_path / "t.csv", [])
    assert [(q.shown, q.sentences) for q in found] == [("x.mp4", ("what?",)), ("y.mp4", ("one, two; three",))]


def test_a_request_for_no_moment_or_too_many_is_refused(tmp_path: Path) -> None:
    assert Ground(tmp_path).moments == 1
    for count in (0, MOST + 1):
        with pytest.raises(UsageError, match="moments is"):
            Ground(tmp_path, moments=count)
    with pytest.raises(UsageError, match="sentence 2 is empty"):
        Question(tmp_path, ("what?", " "))


def test_a_video_that_cannot_be_read_is_a_fault_unless_it_is_the_last_hope(tmp_path: Path) -> None:
    class Reader:
        def ground(self, question: Question, moments: int) -> Grounding:
            if "bad" in question.shown:
                raise VideoError(f"{question.shown} is bad")
            return a_grounding(question.file, *question.sentences)

    def asked(*names: str) -> tuple[list[str], list[str]]:
        faults: list[StvgError] = []
        questions = [Question(Path(name), ("what?",)) for name in names]
        found = [g.file.name for g in answered(Reader(), questions, 1, faults)]  # type: ignore[arg-type]
        return found, [fault.message for fault in faults]

    assert asked("a", "bad", "c") == (["a", "c"], ["bad is bad"])
    with pytest.raises(VideoError, match="bad1"):
        asked("bad0", "bad1")


# What is written ------------------------------------------------------------------------------------------------------


def test_a_line_has_seconds_the_rate_and_a_box_for_every_frame_of_its_moments_and_for_no_other(tmp_path: Path) -> None:
    write_answers(tmp_path, [a_grounding(Path("a.mp4"), "one", "two"), a_grounding(Path("b.mp4"), "three")], None)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert [(k["sample_id"], k["video"], k["sentence"]) for k in lines] == [
        (1, "a.mp4", "one"),
        (2, "a.mp4", "two"),
        (3, "b.mp4", "three"),
    ]
    facts = {name: lines[2][name] for name in ("fps", "start", "end", "start_seconds", "end_seconds", "probability")}
    assert facts == {"fps": 25, "start": 10, "end": 20, "start_seconds": 0.4, "end_seconds": 0.8, "probability": 0.5}
    assert [*lines[2]["boxes"]] == [str(frame) for frame in range(10, 20)]
    assert lines[2]["boxes"]["15"] == [35.0, 10.0, 75.0, 40.0]
    (other,) = lines[2]["others"]
    assert [*other["boxes"]] == [str(frame) for frame in range(40, 50)]
    assert (other["start_seconds"], other["probability"]) == (1.6, 0.25)


def test_what_an_earlier_run_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    def draw(found: Grounding, films: list[Path]) -> None:
        for film in films:
            film.write_text("film")

    write_answers(tmp_path, [a_grounding(Path("a.mp4"), "one", "two", "three")], draw)
    (tmp_path / "4.mp4").write_text("the user's own")
    write_answers(tmp_path, [a_grounding(Path("a.mp4"), "one")], draw)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.mp4", "4.mp4", "predictions.jsonl"]
    write_answers(tmp_path, [a_grounding(Path("a.mp4"), "one")], None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["4.mp4", "predictions.jsonl"]
    (tmp_path / "predictions.jsonl").write_text('{"sample_id": "../x", "film": "../x.mp4"}\n{"sample_id": []}')
    write_answers(tmp_path, [a_grounding(Path("a.mp4"), "one")], draw)
    kept = (tmp_path / "predictions.jsonl").read_text()
    endless = a_grounding(Path("a.mp4"), "one")
    endless.answers[0].tube.boxes[0, 0] = np.nan
    with pytest.raises(PredictionError, match="not finite"):
        write_answers(tmp_path / "out", [endless], None)
    assert kept.count("\n") == 1


def draw_text(found: Grounding, films: list[Path]) -> None:
    for film in films:
        film.write_text(f"{found.video.video_id} {film.name}")


def test_a_file_that_no_earlier_run_wrote_is_never_replaced_or_removed(tmp_path: Path) -> None:
    (tmp_path / "2.mp4").write_text("the user's own")
    with pytest.raises(UsageError, match=r"2.mp4 is there already"):
        require_room(tmp_path, 2, [])
    require_room(tmp_path, 1, [])
    write_answers(tmp_path, [a_grounding(Path("a.mp4"), "one")], draw_text)
    require_room(tmp_path, 1, [])
    (tmp_path / "1.mp4").write_text("replaced by the user since")
    with pytest.raises(UsageError, match=r"1.mp4 is there already"):
        require_room(tmp_path, 1, [])
    write_answers(tmp_path, [a_grounding(Path("a.mp4"), "one")], None)
    assert (tmp_path / "1.mp4").read_text() == "replaced by the user since"
    assert (tmp_path / "2.mp4").read_text() == "the user's own"


def test_a_video_that_is_asked_about_is_never_replaced(tmp_path: Path) -> None:
    write_answers(tmp_path, [a_grounding(Path("a.mp4"), "one", "two")], draw_text)
    for count in (2, 0):  # without annotated videos, those of an earlier run are removed all the same
        with pytest.raises(UsageError, match=r"1.mp4 is asked about, and would be replaced or removed"):
            require_room(tmp_path, count, [tmp_path / "1.mp4"])


@pytest.mark.parametrize("content", ["mine", '{"a": 1}', '["x"]'])
def test_a_file_called_predictions_that_is_none_is_never_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "predictions.jsonl").write_text(content)
    with pytest.raises(UsageError, match=r"predictions.jsonl is there already"):
        require_room(tmp_path, 1, [])


def test_nothing_of_an_earlier_run_is_lost_before_all_answers_are_there(tmp_path: Path) -> None:
    write_answers(tmp_path, [a_grounding(Path("a.mp4"), "one", "two")], draw_text)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def failing() -> Iterator[Grounding]:
        yield a_grounding(Path("b.mp4"), "three")
        raise UsageError("the second video is a fault")

    with pytest.raises(UsageError, match="a fault"):
        write_answers(tmp_path, failing(), draw_text)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_every_moment_is_a_row_of_the_frame_with_its_rank(tmp_path: Path) -> None:
    frame = a_grounding(Path("a.mp4"), "one", "two").to_frame()
    assert frame[["sentence", "rank", "start", "end_seconds"]].to_numpy().tolist() == [
        [name, *row] for name in ("one", "two") for row in ([1, 10, 0.8], [2, 40, 2.0])
    ]
    assert all(row.boxes.shape == (len(row.frames), 4) == (10, 4) for row in frame.itertuples())


def with_sound(path: Path, start: float = 0.0) -> Path:
    """60 grey frames at 25 a second from second ``start``, with a tone from second 1 of them on."""
    with av.open(str(path), "w") as out:
        pictures, sound = out.add_stream("libx264", rate=25), out.add_stream("aac", rate=48_000, layout="mono")
        pictures.width, pictures.height, pictures.pix_fmt = 208, 48, "yuv420p"
        for i in range(60):
            frame = av.VideoFrame.from_ndarray(np.full((48, 208, 3), 90, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i + round(25 * start), Fraction(1, 25)
            out.mux(pictures.encode(frame))
        out.mux(pictures.encode(None))
        seconds = np.arange(round(48_000 * (start + 2.4))) / 48_000
        tone = np.where(seconds >= start + 1, np.sin(2 * np.pi * 440 * seconds), 0).astype(np.float32)
        heard = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        heard.rate, heard.pts, heard.time_base = 48_000, 0, Fraction(1, 48_000)
        out.mux(sound.encode(heard))
        out.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("start", [0.0, 0.48])
def test_a_film_keeps_the_sound_at_its_time(tmp_path: Path, start: float) -> None:
    file = with_sound(tmp_path / "a.mp4", start)
    write_films(a_grounding(file, "one"), [tmp_path / "1.mp4"])
    with av.open(str(tmp_path / "1.mp4")) as film:
        parts = [(frame.time, np.abs(frame.to_ndarray()).max()) for frame in film.decode(audio=0)]
    loud = [time for time, peak in parts if peak > 0.5]
    assert loud[0] == pytest.approx(1, abs=0.05)
    assert parts[-1][0] == pytest.approx(2.4, abs=0.1)
    assert probe(tmp_path / "1.mp4").frames == 60


def test_a_film_has_its_pictures_where_there_is_no_sound_or_one_that_does_not_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_films(a_grounding(write_video(tmp_path / "a.mp4", 60), "one"), [tmp_path / "1.mp4"])
    with av.open(str(tmp_path / "1.mp4")) as film:
        assert not film.streams.audio
    file = with_sound(tmp_path / "b.mp4")

    class Broken:
        def __init__(self, **_: object) -> None:
            pass

        def resample(self, _: object) -> list[object]:
            raise av.error.InvalidDataError(1, "broken")

    monkeypatch.setattr("stvg.evaluate.grounding.sound.av.AudioResampler", Broken)
    write_films(a_grounding(file, "one"), [tmp_path / "2.mp4"])
    assert probe(tmp_path / "2.mp4").frames == 60
    assert "its sound does not decode to the end" in caplog.text


def test_the_sentence_and_the_bar_stand_above_the_picture_and_all_moments_are_on_it(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.mp4", 60)
    found = a_grounding(file, "the man \u202e in red \x1b[31m " * 30)
    write_films(found, [tmp_path / "1.mp4"])
    with av.open(str(tmp_path / "1.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    top = frames[0].shape[0] - 48
    bar = frames[59][top - BAR // 2].astype(int)

    def share(colour: tuple[int, int, int]) -> np.ndarray:
        return np.flatnonzero(np.abs(bar - colour).sum(-1) < 60) / 208

    for colour, (start, end) in ((YELLOW, (10, 20)), (AMBER, (40, 50))):
        assert share(colour)[[0, -1]] == pytest.approx([start / 60, end / 60], abs=0.03)
    assert (frames[0][: top - BAR] > 200).any()  # the sentence, in white
    colours = [np.abs(frames[i][top:].astype(int) - YELLOW).sum(-1) < 60 for i in (5, 15, 45)]
    assert [bool(k.sum() > 30) for k in colours] == [False, True, False]


# What a score means ---------------------------------------------------------------------------------------------------


SEEN = Seen("shapes", "train", 6, 90, (120, 160), (2.0, 5.0), "a circle moves red right the to")


def test_what_is_unlike_the_training_data_is_said_and_what_is_like_it_is_not() -> None:
    alike, large = Video("v", "v", 160, 120, 25, 75), Video("v", "v", 1280, 720, 25, 75)
    assert SEEN.unlike(alike, 3, ["the red circle moves to the right", "a square moves"]) == [
        "1 of 3 words were in no sentence of training: square"
    ]
    assert SEEN.unlike(large, 90, ["A motorcyclist waves, and falls again!"]) == [
        "its shorter side has 720 pixels",
        "it lasts 90 s",
        "5 of 6 words were in no sentence of training: motorcyclist, waves, and, falls, …",
    ]
    assert SEEN.unlike(alike, None, ["?"]) == []


def test_a_checkpoint_says_what_its_head_was_trained_on(checkpoint: Path, tiny_cache: Path) -> None:
    seen, table = load_head(checkpoint, torch.device("cpu")).seen, Cache.open(tiny_cache).samples
    assert seen is not None
    rows = [i for i, split in enumerate(table.splits) if split == "train"]
    assert (seen.samples, seen.videos) == (len(rows), len({table.video_ids[i] for i in rows}))
    assert all(seen.unlike(table.video(i), None, [table.sentence(i)]) == [] for i in rows)
    assert str(seen).startswith(f"vidstg train: {seen.videos} videos, {seen.samples} sentences of ")


def test_a_question_about_other_things_is_answered_with_a_warning_that_its_score_means_nothing(
    stvg: Callable[..., Ran], checkpoint: Path, video: Path, tmp_path: Path
) -> None:
    """Beside one that cannot be read, in one folder; several moments each."""
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(video.read_bytes())
    (folder / "b.mp4").write_bytes(b"nothing")
    words = ["a motorcyclist waves goodbye", "--checkpoint", checkpoint, "--out", tmp_path / "out", "--moments", 3]
    ran = stvg("predict", folder, *words)
    assert ran.code == 3, ran.err
    assert f"answering 2 questions about 2 videos, 3 moments each; on cpu → {tmp_path / 'out'}" in ran.err
    assert "predict: 50%, 1/2 videos" in ran.err
    assert "a.mp4 is unlike what this head was trained on: the scores mean nothing here" in ran.err
    assert "motorcyclist" in ran.err
    assert "encoder    tiny" in ran.err
    assert "b.mp4 is not a video" in ran.err
    assert "1 video of 2 could not be read" in ran.err
    assert "Neither is the chance that the answer is right" in ran.out
    (line,) = (json.loads(text) for text in (tmp_path / "out/predictions.jsonl").read_text().splitlines())
    assert line["video"] == "a.mp4"
    assert 1 <= len(line["others"]) <= 2
    assert (tmp_path / "out" / line["film"]).exists()


def test_a_film_of_a_video_that_ends_early_is_no_film(tmp_path: Path) -> None:
    found = a_grounding(write_video(tmp_path / "a.mp4", 60), "one")
    longer = replace(found, video=replace(found.video, frame_count=61), clock=Clock.steady(61, 25.0))
    with pytest.raises(VideoError, match="ends early"):
        write_films(longer, [tmp_path / "1.mp4"])
    assert not (tmp_path / "1.mp4").exists()
