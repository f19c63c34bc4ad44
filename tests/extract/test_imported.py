"""Features made elsewhere become a cache, and those of a cache become files: nothing of them is changed on the way."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stvg.atomic import unit_name
from stvg.cache.index import Cache
from stvg.cache.schema import Video
from stvg.cache.upkeep.verify import verify
from stvg.errors import UsageError, VideoError
from stvg.extract.encoders.backbone import build_backbone
from stvg.extract.feature_files import Imported, Times, channels_of

VIDEO = Video("v", "a/v.mp4", 64, 48, 25.0, 100)


def words(folder: Path, data: Path, out: Path, *more: object) -> list[object]:
    chosen = ["cache", "import", folder, "--name", "mine", "--dataset", "vidstg", "--annotations", data, "--out", out]
    return [*chosen, "--text-encoder", "tiny", "--device", "cpu", "--max-frames", "40", *more]


@pytest.fixture(scope="module")
def exported(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from stvg.cache.upkeep.export import export

    folder = tmp_path_factory.mktemp("exported")
    assert export(Cache.open(tiny_cache), folder) == 8
    return folder


@pytest.fixture
def vectors(tiny_cache: Path, tmp_path: Path) -> Path:
    """One vector a second of each video, as .npy."""
    samples = Cache.open(tiny_cache).samples
    folder = tmp_path / "vectors"
    folder.mkdir()
    for seed, (video_id, rows) in enumerate(samples.rows_of_videos.items()):
        video = samples.video(rows[0])
        count = int(np.ceil(video.frame_count / video.fps))
        np.save(folder / f"{unit_name(video_id)}.npy", np.random.default_rng(seed).random((count, 24), np.float32))
    return folder


# ---- there and back


@pytest.mark.parametrize("form", ["npz", "npy"])
def test_what_is_exported_and_imported_is_what_was_stored(stvg, synthetic, tiny_cache, exported, tmp_path, form):
    folder = exported
    if form == "npy":
        folder = tmp_path / "files"
        assert stvg("cache", "export", tiny_cache, folder, "--format", "npy").code == 0
    ran = stvg(*words(folder, synthetic, tmp_path / "c", "--split", "train", "--split", "test"))
    assert ran.code == 0, ran.err
    assert "import: 8 videos done" in ran.out
    here, there = Cache.open(tmp_path / "c"), Cache.open(tiny_cache)
    last = there.recipe.levels[-1].name
    assert here.recipe.visual.name == "imported:mine"
    assert here.complete() == there.complete()
    for video_id in here.complete():
        one, other = here.unit(video_id), there.unit(video_id)
        assert one.frames.tolist() == other.frames.tolist()
        maps = [unit.read(name, unit.places(unit.frames)) for unit, name in ((one, "imported"), (other, last))]
        assert maps[0].equal(maps[1])
    assert verify(tmp_path / "c").problems == []


def test_a_head_is_trained_and_scored_on_features_made_elsewhere(stvg, synthetic, vectors, tmp_path):
    ran = stvg(*words(vectors, synthetic, tmp_path / "c", "--feature-fps", "1", "--split", "train", "--split", "test"))
    assert ran.code == 0, ran.err
    cpu = ["--device", "cpu"]
    small = ["--preset", "tiny", "--set", "train.epochs=1", "--set", "model.ffn=32"]
    ran = stvg("train-head", "--cache", tmp_path / "c", "--out", tmp_path / "run", *small, *cpu)
    assert ran.code == 0, ran.err
    head = tmp_path / "run" / "best.safetensors"
    ran = stvg("evaluate", "--checkpoint", head, "--cache", tmp_path / "c", *cpu)
    assert ran.code == 0, ran.err
    assert "declarative" in ran.out
    with pytest.raises(UsageError, match="made elsewhere"):
        build_backbone(Cache.open(tmp_path / "c").recipe.visual.name)


def test_importing_again_changes_nothing_and_other_files_are_another_recipe(stvg, synthetic, vectors, tmp_path):
    command = words(vectors, synthetic, tmp_path / "c", "--stride", "10", "--offset", "0.5", "--split", "test")
    assert stvg(*command).code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "c").rglob("*") if p.is_file()}
    ran = stvg(*command)
    assert "0 videos done" in ran.out
    assert "2 were there already" in ran.out
    assert {p: p.read_bytes() for p in (tmp_path / "c").rglob("*") if p.is_file()} == before
    file = min(vectors.iterdir())
    np.save(file, np.load(file) + 1)
    ran = stvg(*command)
    assert ran.code == 1
    assert "visual.sha256" in ran.err


def test_a_video_without_features_is_skipped_and_said(stvg, synthetic, vectors, tmp_path):
    gone = next(f for f in vectors.iterdir() if f.stem in videos_of(synthetic, "test"))
    gone.unlink()
    ran = stvg(*words(vectors, synthetic, tmp_path / "c", "--feature-fps", "1", "--split", "test"))
    assert ran.code == 3
    assert f"no features of video {gone.stem}" in ran.err
    shutil.copy(min(vectors.iterdir()), gone)


def test_a_file_with_bad_values_or_that_cannot_be_read_costs_its_video_only(stvg, synthetic, vectors, tmp_path):
    wanted = sorted(f for f in vectors.iterdir() if f.stem in videos_of(synthetic, "train"))
    spoiled = np.load(wanted[1])
    spoiled[3, 2] = np.nan
    np.save(wanted[1], spoiled)
    np.save(wanted[2], np.full_like(spoiled, 1e30))
    min(vectors.iterdir()).write_bytes(b"no array")
    command = words(vectors, synthetic, tmp_path / "c", "--feature-fps", "1", "--split", "train")
    ran = stvg(*command)
    assert ran.code == 3
    assert f"{wanted[1]} holds values that float16 cannot" in ran.err
    assert f"{wanted[2]} holds values that float16 cannot" in ran.err
    cache = Cache.open(tmp_path / "c")
    bad = {wanted[1].stem, wanted[2].stem, *([wanted[0].stem] if wanted[0] == min(vectors.iterdir()) else [])}
    assert set(cache.skipped()) == bad
    assert cache.complete() == {f.stem for f in wanted} - bad
    for option in ("--feature-fps", "--offset"):
        assert stvg(*command[:-4], "--stride", "4", option, "nan").code == 2


def videos_of(data: Path, split: str) -> set[str]:
    from stvg.extract.datasets.readers import read_annotations

    return {s.video.video_id for s in read_annotations("vidstg", data, split).samples}


# ---- time


@given(st.integers(1, 60), st.floats(0.5, 40), st.floats(-3, 3), st.lists(st.integers(0, 99), min_size=1, max_size=30))
def test_each_frame_takes_the_nearest_features_no_further_than_one_step(count, stride, offset, frames):
    positions = Times(stride=stride, offset=offset).positions(count, VIDEO, Path("v.npy"))
    frames = np.array(sorted(frames))
    imported = Imported(np.zeros((count, 1, 1, 2)), positions)
    distance = np.abs(positions[None] - frames[:, None])
    step = max(1.0, stride) if count > 1 else VIDEO.fps
    try:
        rows = imported.rows_at(frames, VIDEO, Path("v.npy"))
    except VideoError:
        assert (distance.min(1) > step * 0.999).any()
    else:
        assert (distance[np.arange(len(frames)), rows] == distance.min(1)).all()
        assert distance.min(1).max() <= step * 1.001


def test_a_rate_a_stride_and_time_stamps_say_the_same(tmp_path):
    features = np.arange(20, dtype=np.float32).reshape(10, 2)
    np.save(tmp_path / "v.npy", features)
    np.savez(tmp_path / "v.npz", features=features, timestamps_ms=np.arange(10) * 400)
    np.savez(tmp_path / "f.npz", features, frames=np.arange(10) * 10)
    found = [
        Imported.read(tmp_path / "v.npy", VIDEO, Times(fps=2.5)),
        Imported.read(tmp_path / "v.npy", VIDEO, Times(stride=10)),
        Imported.read(tmp_path / "v.npz", VIDEO, Times()),
        Imported.read(tmp_path / "f.npz", VIDEO, Times()),
    ]
    assert all(np.allclose(f.positions, np.arange(10) * 10.0) for f in found)
    assert all((f.features[:, 0, 0] == features).all() for f in found)


def test_what_cannot_be_used_is_named(tmp_path):
    with pytest.raises(UsageError, match="exclude each other"):
        Times(fps=1, stride=2)
    np.save(tmp_path / "v.npy", np.ones((4, 2), np.float32))
    with pytest.raises(UsageError, match="does not say when"):
        Imported.read(tmp_path / "v.npy", VIDEO, Times())
    np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "s.npy", np.ones(4))
    (tmp_path / "b.npy").write_bytes((tmp_path / "v.npy").read_bytes()[:-3])
    np.savez(tmp_path / "t.npz", features=np.ones((4, 2)), timestamps_ms=[0, 2, 1, 3])
    np.savez(tmp_path / "n.npz", a=np.ones((4, 2)), b=np.ones((4, 2)))
    for name, said in (
        ("o.npy", "cannot be read"),
        ("s.npy", "holds no features"),
        ("b.npy", "cannot be read"),
        ("t.npz", "times of its features"),
        ("n.npz", "no array called features"),
        ("none.npy", "cannot be read"),
    ):
        with pytest.raises(VideoError, match=said):
            Imported.read(tmp_path / name, VIDEO, Times(fps=1))


ROWS = np.random.default_rng(0).random((20, 8), np.float32)


def saved(file: Path, **arrays: np.ndarray) -> Path:
    np.savez(file, **arrays)
    return file


def cut_off(file: Path) -> Path:
    whole = saved(file, features=ROWS).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    return file


def of_other_bytes(file: Path) -> Path:
    content = bytearray(saved(file, features=ROWS).read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (cut_off, "cannot be read"),
        (of_other_bytes, "cannot be read"),
        (lambda f: saved(f, features=ROWS, frames=np.array(["x"] * 20)), "times of its features cannot be used"),
        (lambda f: saved(f, features=ROWS, frames=np.full(20, np.nan)), "times of its features cannot be used"),
        (lambda f: saved(f, features=ROWS, frames=np.arange(20, dtype=np.uint8)[::-1]), "cannot be used"),
        (lambda f: saved(f, features=ROWS, frames=np.arange(20) * 200), "are not those of video v"),
        (lambda f: saved(f, features=ROWS + 1j, frames=np.arange(20)), "holds no features"),
    ],
)
def test_a_file_that_is_damaged_or_says_what_cannot_be_is_one_clear_error(tmp_path, make, said):
    with pytest.raises(VideoError, match=said):
        Imported.read(make(tmp_path / "v.npz"), VIDEO, Times())


def test_channels_are_those_of_the_first_file_that_holds_features(tmp_path):
    np.save(tmp_path / "a.npy", np.array(["no", "features"]))
    np.save(tmp_path / "b.npy", ROWS)
    assert channels_of({name: tmp_path / f"{name}.npy" for name in "ab"}) == 8


def test_two_videos_whose_files_would_be_one_are_not_exported(tmp_path):
    from stvg.cache.annotations import AnnotationSet
    from stvg.cache.upkeep.export import export

    from ..cache.caches import make_cache, make_samples, write_video

    cache = make_cache(tmp_path / "cache", range(1))
    write_video(cache, "v0.frames", 1)
    (first,) = make_samples(range(1), 1)
    both = [first, replace(first, sample_id=9, video=replace(first.video, video_id="v0.frames"))]
    cache = cache.seen_through(AnnotationSet.of("both", "json", both))
    with pytest.raises(UsageError, match="would have the same file name"):
        export(cache, tmp_path / "out", form="npy")
    (tmp_path / "out").mkdir()
    assert export(cache, tmp_path / "out") == 2
