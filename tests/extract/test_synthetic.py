"""The synthetic data: exact, the same every time, and not to be solved by looking at half of the question.

The oracles below know every box and every event perfectly and are denied one thing each. What they score is what a
model can reach without that thing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path

import av
import numpy as np
import pytest

from stvg.errors import UsageError
from stvg.evaluate.demo.run import WORLD
from stvg.extract.synthetic.dataset import make_dataset, make_scene, scene_seed, write_hcstvg, write_vidstg
from stvg.extract.synthetic.drawing import draw
from stvg.extract.synthetic.scenes import COLOURS, DIRECTIONS, NEAR, SHAPES, Event, Scene, SyntheticConfig, gaps
from stvg.extract.synthetic.sentences import WORDINGS, ToldEvent, denotation

CONFIG = SyntheticConfig(seed=5)
Story = tuple[Scene, tuple[ToldEvent, ...]]
Tube = tuple[int, int, np.ndarray]
"""First frame, end frame, boxes of the object in every frame of the video."""


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return [make_scene(scene_seed(CONFIG, "train", i), CONFIG) for i in range(60)]


@pytest.fixture(scope="module")
def vidstg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vidstg")
    write_vidstg(folder, replace(CONFIG, train=4, val=1, test=2))
    return folder


@pytest.fixture(scope="module")
def hcstvg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hcstvg")
    write_hcstvg(folder, replace(CONFIG, train=2, val=1, test=1))
    return folder


def asked(stories: list[Story]) -> list[tuple[Scene, Event, int]]:
    """Every sentence as (scene, event, target object)."""
    return [(s, r.event, q.target) for s, told in stories for r in told for q in (r.caption, *r.questions)]


def happenings(scene: Scene) -> list[Event]:
    return [event for event in scene.events if not event.passing]


def tube(scene: Scene, event: Event, target: int | None = None) -> Tube:
    return event.start, event.end, scene.things[event.subject if target is None else target].boxes


def tiou(a: Tube, b: Tube) -> float:
    shared = max(0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / (a[1] - a[0] + b[1] - b[0] - shared)


def viou(a: Tube, b: Tube) -> float:
    """Box IoU summed over the frames in both tubes, divided by the number of frames in either."""
    both = slice(max(a[0], b[0]), min(a[1], b[1]))
    if both.start >= both.stop:
        return 0.0
    one, two = a[2][both], b[2][both]
    inner = np.prod(np.maximum(np.minimum(one[:, 2:], two[:, 2:]) - np.maximum(one[:, :2], two[:, :2]), 0), axis=1)
    area = sum(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, two))
    return float((inner / (area - inner)).sum() / (max(a[1], b[1]) - min(a[0], b[0])))


def mean_choice(candidates: list[Tube], truth: Tube) -> float:
    """Expected vIoU of picking one of the candidates blindly."""
    return float(np.mean([viou(candidate, truth) for candidate in candidates]))


@pytest.fixture(scope="module", params=["default", "demo"])
def worlds(request: pytest.FixtureRequest, stories: list[Story]) -> list[Story]:
    """The generator's default scenes, and those of the demo."""
    if request.param == "default":
        return stories
    return [make_scene(scene_seed(WORLD, "train", i), WORLD) for i in range(60)]


# --- honesty: what is missed when part of the sentence is not understood --------------------------------------


def test_knowing_everything_but_the_sentence_scores_below_030(worlds: list[Story]) -> None:
    scores: dict[str, list[float]] = {"random": [], "longest": [], "largest": [], "most typical": []}
    for scene, event, target in asked(worlds):
        tubes, truth = [tube(scene, e) for e in happenings(scene)], tube(scene, event, target)
        areas = [np.ptp(t[2][t[0] : t[1], ::2], axis=1).mean() for t in tubes]
        scores["random"].append(mean_choice(tubes, truth))
        scores["longest"].append(viou(max(tubes, key=lambda t: t[1] - t[0]), truth))
        scores["largest"].append(viou(tubes[int(np.argmax(areas))], truth))
        scores["most typical"].append(viou(max(tubes, key=lambda t: mean_choice(tubes, t)), truth))
    means = {policy: float(np.mean(found)) for policy, found in scores.items()}
    assert max(means.values()) < 0.30, means
    assert means["random"] < 0.22, means


def test_the_right_object_without_its_moment_scores_below_050(worlds: list[Story]) -> None:
    pairs = [((0, s.frame_count, s.things[target].boxes), tube(s, event, target)) for s, event, target in asked(worlds)]
    means = np.mean([(viou(a, b), tiou(a, b)) for a, b in pairs], axis=0)
    assert means.max() < 0.42, means


def test_no_fixed_part_of_the_video_is_a_good_guess_of_the_moment(worlds: list[Story]) -> None:
    moments = np.array([(e.start / s.frame_count, e.end / s.frame_count) for s, e, _ in asked(worlds)])
    best = 0.0
    for start, end in combinations(np.linspace(0, 1, 21), 2):
        shared = np.maximum(0, np.minimum(moments[:, 1], end) - np.maximum(moments[:, 0], start))
        best = max(best, float(np.mean(shared / (np.ptp(moments, axis=1) + end - start - shared))))
    assert best < 0.40


def test_words_for_the_object_and_words_for_the_event_are_both_needed(worlds: list[Story]) -> None:
    by_object, by_event = [], []
    for scene, event, target in asked(worlds):
        truth = tube(scene, event, target)
        own = [tube(scene, e, target) for e in happenings(scene) if target in (e.subject, e.other)]
        same = [e for e in happenings(scene) if e.predicate == event.predicate]
        roles = [tube(scene, e, tid) for e in same for tid in (e.subject, e.other) if tid is not None]
        by_object.append(mean_choice(own, truth))
        by_event.append(mean_choice(roles, truth))
    assert np.mean(by_object) < 0.70
    assert np.mean(by_event) < 0.70


def test_neither_colour_nor_shape_names_an_object_in_its_scene(stories: list[Story]) -> None:
    for scene, _ in stories:
        assert len({thing.colour for thing in scene.things}) < len(scene.things)
        assert len({thing.shape for thing in scene.things}) < len(scene.things)
        assert len({(thing.colour, thing.shape) for thing in scene.things}) == len(scene.things)


def test_objects_mostly_have_two_different_events_and_events_several_objects(stories: list[Story]) -> None:
    events = [event for scene, _ in stories for event in happenings(scene)]
    objects = sum(len(scene.things) for scene, _ in stories)
    kinds = sum(len({event.predicate for event in happenings(scene)}) for scene, _ in stories)
    assert len(events) > 1.5 * objects
    assert len(events) > 1.5 * kinds


# --- truth: the sentences against the geometry ----------------------------------------------------------------


def test_every_sentence_denotes_its_target_and_moment_and_nothing_else(stories: list[Story]) -> None:
    for scene, told in stories:
        for record in told:
            for sentence in (record.caption, *record.questions):
                assert denotation(scene, sentence.form) == {(sentence.target, record.event.start, record.event.end)}, (
                    sentence
                )


def test_the_bare_words_of_a_sentence_fit_one_event_only(stories: list[Story]) -> None:
    for scene, told in stories:
        for record in told:
            if record.event.predicate == "next_to":
                continue
            for sentence in (record.caption, *record.questions):
                words = sentence.text.strip("?").split()
                fitting = [
                    event
                    for event in scene.events
                    if any(sentence.text.strip("?").endswith(end) for end in WORDINGS[event.predicate])
                    and {*words} & {*COLOURS} <= {scene.things[event.subject].colour}
                    and {*words} & {*SHAPES} <= {scene.things[event.subject].shape}
                    and {*words} & {"small", "big"} <= {scene.things[event.subject].size or "small"}
                ]
                assert fitting == [record.event], sentence


def test_objects_move_clearly_during_their_events_and_rest_otherwise(stories: list[Story]) -> None:
    for scene, _ in stories:
        picture = np.array([scene.width, scene.height])
        for tid, thing in enumerate(scene.things):
            centres, sides = (thing.boxes[:, :2] + thing.boxes[:, 2:]) / 2, np.ptp(thing.boxes[:, ::2], axis=1)
            resting = np.ones(scene.frame_count, dtype=bool)
            for event in scene.events:
                span = slice(event.start, event.end)
                if event.subject == tid and not event.passing:
                    shift = (centres[event.end - 1] - centres[event.start]) / picture
                    if event.predicate in DIRECTIONS:
                        assert shift @ DIRECTIONS[event.predicate] > 0.25
                    if event.predicate == "grows":
                        assert sides[event.end - 1] > 1.6 * sides[event.start]
                if event.subject == tid and (event.passing or event.predicate in DIRECTIONS):
                    resting[max(0, event.start - 1) : event.end + 2] = False
                if event.subject == tid and event.predicate == "next_to":
                    resting[span] = False
                    resting[max(0, event.start - 8) : event.end + 8] = False
            still = resting[1:] & resting[:-1]
            assert (np.abs(np.diff(centres, axis=0)).max(1)[still] <= 1.5).all()


def test_two_objects_are_near_each_other_exactly_while_an_event_says_so(stories: list[Story]) -> None:
    for scene, _ in stories:
        for a, b in permutations(range(len(scene.things)), 2):
            near = gaps(scene.things[a].boxes, scene.things[b].boxes) <= NEAR * scene.height
            for event in scene.events:
                if event.predicate == "next_to" and {event.subject, event.other} == {a, b}:
                    assert near[event.start : event.end].all()
                    passage = max(4, scene.frame_count // 12) + 1
                    near[max(0, event.start - passage) : event.end + passage] = False
            assert near.sum() <= max(3, scene.frame_count // 16)


def test_events_last_a_quarter_to_a_half_of_the_video_and_boxes_stay_inside(stories: list[Story]) -> None:
    for scene, _ in stories:
        for event in happenings(scene):
            assert 0 <= event.start < event.end <= scene.frame_count
            assert 12 <= event.end - event.start <= 0.5 * scene.frame_count + 1
        for thing in scene.things:
            assert (thing.boxes[:, :2] >= 0).all()
            assert (thing.boxes[:, 2:] <= [scene.width, scene.height]).all()


def test_few_words_and_about_as_many_questions_as_statements(stories: list[Story]) -> None:
    texts = [q.text for _, told in stories for r in told for q in (r.caption, *r.questions)]
    questions = [text for text in texts if text.endswith("?")]
    assert len(texts) >= 5 * len(stories)
    assert 0.4 < len(questions) / len(texts) < 0.6
    assert len({word for text in texts for word in text.strip("?").split()}) < 60
    assert all(text == text.lower().strip() for text in texts)
    assert {r.event.predicate for _, told in stories for r in told} == {*WORDINGS}


# --- pixels and files -----------------------------------------------------------------------------------------


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_boxes_are_the_exact_bounds_of_what_is_drawn(stories: list[Story]) -> None:
    scene, _ = stories[0]
    bare = replace(scene, things=(), events=())
    for thing in scene.things:
        changed = (draw(replace(bare, things=(thing,))) != draw(bare)).any(-1)
        for picture, box in zip(changed, thing.boxes, strict=True):
            y, x = np.nonzero(picture)
            assert [x.min(), y.min(), x.max() + 1, y.max() + 1] == box.tolist()


def test_decoded_frames_show_the_objects_colour_inside_its_box(vidstg: Path) -> None:
    config = replace(CONFIG, train=4, val=1, test=2)
    for index in range(4):
        scene, _ = make_scene(scene_seed(config, "train", index), config)
        frames = decode(vidstg / f"vidor/video/1000/1{index:09d}.mp4").astype(int)
        assert frames.shape == (scene.frame_count, scene.height, scene.width, 3)
        for tid, thing in enumerate(scene.things):
            plain = np.ones(scene.frame_count, dtype=bool)
            for event in scene.events:
                if event.subject == tid and event.predicate in ("striped", "flashes"):
                    plain[event.start : event.end] = False
            for later in scene.things[tid + 1 :]:
                plain &= gaps(thing.boxes, later.boxes) > 0
            x, y = np.moveaxis((thing.boxes[:, :2] + thing.boxes[:, 2:]) // 2, 1, 0)
            middle = frames[np.arange(scene.frame_count), y, x][plain]
            assert np.abs(middle - COLOURS[thing.colour]).max() < 40


def test_stripes_and_flashes_can_be_seen_in_single_frames(stories: list[Story]) -> None:
    seen = set()
    for scene, _ in stories[:10]:
        events = [event for event in happenings(scene) if event.predicate in ("striped", "flashes")]
        frames = draw(scene) if events else np.empty(0)
        for event in events:
            x1, y1, x2, y2 = scene.things[event.subject].boxes[event.start]
            inside = frames[event.start, y1:y2, x1:x2].astype(int)
            if event.predicate == "striped":
                assert (inside.max(-1) < 40).mean() > 0.2
            else:
                assert (inside.min(-1) > 200).mean() > 0.2
            seen.add(event.predicate)
    assert seen == {"striped", "flashes"}


def test_every_moment_has_a_box_of_its_target_in_every_frame(vidstg: Path) -> None:
    for split, folder in (("train", "training"), ("val", "training"), ("test", "validation")):
        records = json.loads((vidstg / f"annotations/{split}_annotations.json").read_text())
        videos = json.loads((vidstg / f"annotations/{split}_files.json").read_text())
        assert videos == sorted({record["vid"] for record in records})
        for record in records:
            (path,) = (vidstg / "vidor/annotation" / folder).rglob(f"{record['vid']}.json")
            vidor = json.loads(path.read_text())
            assert all(vidor[key] == record[key] for key in ("fps", "frame_count", "width", "height"))
            assert len(vidor["trajectories"]) == record["frame_count"] == record["used_segment"]["end_fid"] + 1
            assert (vidstg / "vidor/video" / vidor["video_path"]).is_file()
            moment, relation = record["temporal_gt"], record["used_relation"]
            assert relation == relation | moment
            assert relation in vidor["relation_instances"]
            assert 0 <= moment["begin_fid"] < moment["end_fid"] <= record["frame_count"]
            assert len(record["captions"]) == 1
            assert len(record["questions"]) <= 2
            for sentence in record["captions"] + record["questions"]:
                assert sentence["target_id"] in (relation["subject_tid"], relation["object_tid"])
                for frame in vidor["trajectories"][moment["begin_fid"] : moment["end_fid"]]:
                    (box,) = [entry["bbox"] for entry in frame if entry["tid"] == sentence["target_id"]]
                    assert 0 <= box["xmin"] < box["xmax"] <= record["width"]
                    assert 0 <= box["ymin"] < box["ymax"] <= record["height"]


def test_hcstvg_clips_last_20_seconds_and_count_their_first_box_from_1(hcstvg: Path) -> None:
    config = replace(CONFIG, frames=(100, 120))
    for split in ("train", "test"):
        for index, (name, record) in enumerate(json.loads((hcstvg / f"annotations/{split}.json").read_text()).items()):
            (path,) = (hcstvg / "videos").rglob(name)
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                assert stream.frames == record["img_num"] >= 100
                assert float(stream.average_rate) * 20 == pytest.approx(record["img_num"])
            scene, told = make_scene(scene_seed(config, split, index), config)
            event, target = told[0].event, told[0].caption.target
            assert record["caption"] == told[0].caption.text
            assert record["st_frame"] == event.start + 1
            assert record["ed_time"] == pytest.approx(event.end * 20 / scene.frame_count)
            x, y, width, height = np.array(record["bbox"]).T
            boxes = scene.things[target].boxes[event.start : event.end]
            np.testing.assert_array_equal(np.stack([x, y, x + width, y + height], axis=1), boxes)


def test_hcstvg_version_2_says_the_same_with_other_keys(hcstvg: Path, tmp_path: Path) -> None:
    write_hcstvg(tmp_path, replace(CONFIG, train=2, val=1, test=0), version=2)
    first = json.loads((hcstvg / "annotations/train.json").read_text())
    second = json.loads((tmp_path / "annotations/train_v2.json").read_text())
    assert first.keys() == second.keys()
    for name, record in first.items():
        caption, size = record.pop("caption"), [record.pop("height"), record.pop("width")]
        assert second[name] == {**record, "English": caption, "img_size": size}
    assert len(json.loads((tmp_path / "annotations/val_v2.json").read_text())) == 1


def test_two_processes_write_the_same_bytes_as_one(vidstg: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    write_vidstg(tmp_path, replace(CONFIG, train=4, val=1, test=2, jobs=2), progress=lambda *step: steps.append(step))
    files = sorted(path.relative_to(vidstg) for path in vidstg.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert all((vidstg / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)
    assert steps == [(done, 7) for done in range(1, 8)]


def test_a_video_does_not_depend_on_how_many_are_made(stories: list[Story], vidstg: Path) -> None:
    records = json.loads((vidstg / "annotations/train_annotations.json").read_text())
    told = [record.caption.text for _, told in stories[:4] for record in told]
    assert [record["captions"][0]["description"] for record in records] == told


def test_splits_and_seeds_give_different_scenes_of_the_same_kinds(stories: list[Story]) -> None:
    def combinations_in(found: list[Story]) -> set[tuple[str, str, str]]:
        return {
            (s.things[e.subject].colour, s.things[e.subject].shape, e.predicate)
            for s, _ in found
            for e in happenings(s)
        }

    held_out = [make_scene(scene_seed(CONFIG, "test", i), CONFIG) for i in range(10)]
    train = stories + [make_scene(scene_seed(CONFIG, "train", i), CONFIG) for i in range(60, 150)]
    assert not {scene.render_seed for scene, _ in held_out} & {scene.render_seed for scene, _ in train}
    wanted = combinations_in(held_out)
    assert len(wanted & combinations_in(train)) > 0.9 * len(wanted)
    other, _ = make_scene(scene_seed(replace(CONFIG, seed=6), "train", 0), CONFIG)
    assert other.render_seed != stories[0][0].render_seed


@pytest.mark.parametrize(
    "wrong",
    [{"train": -1}, {"width": 161}, {"frames": (20, 64)}, {"frames": (64, 48)}, {"objects": (2, 3)}, {"jobs": 0}],
)
def test_settings_that_make_no_dataset_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="no synthetic dataset"):
        replace(CONFIG, **wrong)


def test_an_unknown_hcstvg_version_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such version"):
        write_hcstvg(tmp_path, CONFIG, version=3)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["vidstg", "hcstvg-v1", "hcstvg-v2"])
@pytest.mark.parametrize("there", ["annotations/train_annotations.json", "annotations/train_v2.json", "notes.txt"])
def test_a_folder_of_somebody_else_is_refused_and_left_as_it_was(tmp_path: Path, kind: str, there: str) -> None:
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("mine")
    with pytest.raises(UsageError, match="holds something else"):
        make_dataset(tmp_path, kind, 1, 0, 1)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / there]
    assert (tmp_path / there).read_text() == "mine"


def test_a_dataset_is_made_again_but_not_with_other_settings_nor_over_a_change(tmp_path: Path) -> None:
    config = replace(CONFIG, train=1, val=1, test=1)
    file = tmp_path / "annotations" / "train.json"
    (tmp_path / ".DS_Store").touch()
    write_hcstvg(tmp_path, config)
    written = file.read_bytes()
    file.unlink()
    write_hcstvg(tmp_path, config)
    assert file.read_bytes() == written
    with pytest.raises(UsageError, match="other settings"):
        write_hcstvg(tmp_path, replace(config, seed=9))
    with pytest.raises(UsageError, match="other settings"):
        write_vidstg(tmp_path, config)
    file.write_bytes(written + b" ")
    with pytest.raises(UsageError, match="was changed after it was written"):
        write_hcstvg(tmp_path, config)
    assert file.read_bytes() == written + b" "


def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot be written"):
            make_dataset(folder, "vidstg", 1, 0, 1)
