"""Features are computed once: whatever annotations come, only what is missing is decoded, encoded and written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stvg.cache.arrays import regions_of
from stvg.cache.batches.dataset import CachedDataset
from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling
from stvg.cache.schema import Sample
from stvg.cache.upkeep.verify import verify
from stvg.extract import runner
from stvg.extract.datasets.readers import read_annotations
from stvg.extract.encoders.text_contract import TextEncoder
from stvg.extract.job import ExtractJob, run_job
from stvg.extract.work import Part, Report

from ..benchmarks.annotation_files import moved, write_json


@pytest.fixture(scope="module")
def samples(synthetic) -> list[Sample]:
    """Sentences about six short videos, as users would annotate them: half of each video is the segment."""
    read = read_annotations("vidstg", synthetic, "train", sampling=Sampling(5.0, 100)).samples
    return [replace(s, sample_id=f"s{i}") for i, s in enumerate(read)]


def first_of_each_video(samples: list[Sample]) -> list[Sample]:
    return list({s.video.video_id: s for s in reversed(samples)}.values())[::-1]


@dataclass
class Done:
    """What an extraction encoded."""

    report: Report
    frames: list[tuple[str, int]] = field(default_factory=list)
    """Video and source frame."""
    sentences: list[str] = field(default_factory=list)


@contextmanager
def counting(done: Done) -> Iterator[None]:
    encode, write = runner.Extraction.encode, TextEncoder.encode

    def encode_counted(self, batch, writer):
        for piece in batch.pieces:
            video = piece.owner
            done.frames += [(video.video_id, int(f)) for f in video.grid[piece.start : piece.start + piece.count]]
        return encode(self, batch, writer)

    def write_counted(self, sentences):
        done.sentences += sentences
        return write(self, sentences)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.Extraction, "encode", encode_counted)
        patch.setattr(TextEncoder, "encode", write_counted)
        yield


def run(annotations: Path, out: Path, videos: Path, **changes) -> Done:
    options = {"dataset": "json", "sampling": Sampling(5.0, 100), "backbone": "tiny", "resolution": 64, **changes}
    done = Done(Report())
    with counting(done):
        job = ExtractJob(annotations=annotations, out=out, videos=videos, device=torch.device("cpu"), **options)
        done.report = run_job(job)[0]
    return done


@pytest.fixture
def extract(synthetic, tmp_path):
    """``extract(samples, split, **options)``: an extraction of samples into the test's cache, and what it encoded."""

    def extract(
        samples: list[Sample], split: str = "train", layout=None, out: Path = tmp_path / "cache", **options
    ) -> Done:
        folder = write_json(tmp_path / f"annotations-{len(os.listdir(tmp_path))}", samples, split, **(layout or {}))
        return run(folder, out, options.pop("videos", synthetic / "vidor" / "video"), **options)

    return extract


def units(out: Path) -> dict[str, bytes]:
    """Every file of every unit."""
    rooms = ("videos", "more", "text")
    return {str(p.relative_to(out)): p.read_bytes() for room in rooms for p in (out / room).rglob("*") if p.is_file()}


def require_complete(out: Path, **seen) -> Cache:
    """Every sample can be read, and is what one extraction of all of them alone would have stored."""
    cache = Cache.open(out, **seen)
    assert cache.covered(range(len(cache.samples))).all()
    assert verify(out).problems == []
    return cache


def require_equal_features(one: Cache, other: Cache) -> None:
    """Two caches give the same batches of their common samples."""
    for split in one.annotations.splits:
        levels = [name for name, form in one.recipe.kept.items() if form == "regions"]
        a, b = (CachedDataset(cache, split, Sampling(5.0, 100), levels) for cache in (one, other))
        for i in range(len(a)):
            x, y = a.collate([a[i]]), b.collate([b[i]])
            for name, tensor in vars(x.inputs).items():
                assert torch.equal(tensor, getattr(y.inputs, name)), (split, i, name)
            assert levels
            for level in levels:
                assert torch.equal(x.targets.regions[level], y.targets.regions[level]), (split, i, level)


def test_of_videos_that_are_added_only_these_are_encoded(extract, samples, tmp_path):
    ids = list(dict.fromkeys(s.video.video_id for s in samples))
    extract([s for s in samples if s.video.video_id in ids[:4]])
    before = units(tmp_path / "cache")
    done = extract(samples)
    assert {video for video, _ in done.frames} == set(ids[4:])
    assert (done.report.videos, done.report.topped_up, done.report.already) == (2, 0, 4)
    assert before.items() <= units(tmp_path / "cache").items()
    require_complete(tmp_path / "cache")


def test_one_mended_typo_is_one_sentence(extract, samples, tmp_path):
    extract(samples)
    before = units(tmp_path / "cache")
    mended = [replace(samples[0], sentence="which person is it?"), *samples[1:]]
    done = extract(mended)
    assert (done.frames, done.sentences) == ([], ["which person is it?"])
    assert done.report.sentences == 1
    assert before.items() <= units(tmp_path / "cache").items()
    cache = require_complete(tmp_path / "cache")
    assert cache.samples.sentence(0) == "which person is it?"


def test_what_changes_no_sample_writes_nothing(extract, samples, tmp_path):
    extract(samples)
    out = tmp_path / "cache"
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in out.rglob("*") if p.is_file()}
    indented, reordered = extract(samples, layout={"indent": 3}), extract(samples[::-1])
    for done in (indented, reordered, extract(samples, sampling=Sampling(5.0, 60))):
        assert (done.frames, done.sentences, done.report.already) == ([], [], 6)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in out.rglob("*") if p.is_file()} == before


def test_a_later_split_of_the_same_videos_encodes_nothing(extract, samples, tmp_path):
    extract(samples[::2])
    extract([s for s in samples if s.video.video_id in {x.video.video_id for x in samples[::2]}], "whole")
    done = extract(samples[1::2], "val")
    assert (done.frames, done.sentences) == ([], [])
    cache = require_complete(tmp_path / "cache")
    assert list(cache.annotations.splits) == ["train", "whole", "val"]


def test_new_targets_at_known_frames_decode_these_frames_only(extract, samples, tmp_path):
    some = first_of_each_video(samples)
    extract(some)
    before = units(tmp_path / "cache")
    new = moved(some[0])
    done = extract([*some, new])
    frames = new.frames(Sampling(5.0, 1000))
    inside = frames[(frames >= new.moment[0]) & (frames < new.moment[1])]
    assert done.frames == [(new.video.video_id, int(f)) for f in inside]
    assert (done.report.videos, done.report.topped_up, done.report.already) == (0, 1, len(some) - 1)
    assert before.items() <= units(tmp_path / "cache").items()
    cache = require_complete(tmp_path / "cache")
    (key,) = cache.store.keys("more")
    assert set(cache.store.arrays(key)) == {"regions", regions_of("c3"), regions_of("c4")}


@pytest.mark.parametrize(("dtype", "store"), [("float16", "zarr"), ("uint8", "hdf5")])
def test_frames_that_a_longer_segment_needs_are_added_and_read_with_the_others(
    extract, samples, tmp_path, dtype, store
):
    options = {"dtype": dtype, "store": store, "views": 2}
    short = [replace(s, segment=(s.moment[0], s.moment[1])) for s in first_of_each_video(samples)]
    extract(short, **options)
    before = units(tmp_path / "cache")
    whole = [replace(s, segment=(0, s.video.frame_count)) for s in short]
    done = extract(whole, **options)
    assert done.report.topped_up == len(short)
    known = {(s.video.video_id, int(f)) for s in short for f in s.frames(Sampling(5.0, 1000))}
    assert not known & set(done.frames)
    assert before.items() <= units(tmp_path / "cache").items()
    cache = require_complete(tmp_path / "cache")
    if dtype != "uint8":  # whose scales depend on which rows are stored together
        extract(whole, out=tmp_path / "once", **options)
        require_equal_features(cache, Cache.open(tmp_path / "once"))


def test_sets_side_by_side_share_what_is_the_same(extract, samples, tmp_path):
    """As HC-STVG 1 and 2 do, and VidSTG and sentences of one's own."""
    extract(samples, annotation_set="v1")
    mine = [replace(s, sample_id=f"mine {i}", sentence=f"number {i}") for i, s in enumerate(samples[:5])]
    before = units(tmp_path / "cache")
    done = extract([*mine, *samples], annotation_set="v2")
    assert done.frames == []
    assert done.sentences == [s.sentence for s in mine]
    assert before.items() <= units(tmp_path / "cache").items()
    assert len(require_complete(tmp_path / "cache", annotation_set="v1").samples) == len(samples)
    assert len(require_complete(tmp_path / "cache", annotation_set="v2").samples) == len(samples) + 5


def test_a_replaced_file_is_named_and_nothing_is_added_to_its_video(extract, samples, synthetic, tmp_path):
    videos = shutil.copytree(synthetic / "vidor" / "video", tmp_path / "videos")
    some = first_of_each_video(samples)
    folder = write_json(tmp_path / "a", [replace(s, segment=s.moment) for s in some])
    run(folder, tmp_path / "cache", videos)
    before = units(tmp_path / "cache")
    victim, other = (next(videos.rglob(Path(s.video.path).name)) for s in some[:2])
    victim.write_bytes(other.read_bytes())
    done = run(
        write_json(tmp_path / "b", [replace(s, segment=(0, s.video.frame_count)) for s in some]),
        tmp_path / "cache",
        videos,
    )
    assert list(done.report.outdated) == [some[0].video.video_id]
    assert "another file" in done.report.outdated[some[0].video.video_id]
    assert done.report.topped_up == len(some) - 1
    assert some[0].video.video_id not in {video for video, _ in done.frames}
    assert before.items() <= units(tmp_path / "cache").items()
    assert not any(some[0].video.video_id in key for key in Cache.open(tmp_path / "cache").store.keys("more"))


def test_a_video_of_another_size_under_a_known_name_is_refused_by_name(extract, samples, tmp_path):
    extract([replace(samples[0], segment=samples[0].moment)])
    video = replace(samples[0].video, width=2 * samples[0].video.width)
    done = extract([replace(samples[0], video=video, segment=(0, video.frame_count))], annotation_set="other")
    assert "in another size" in done.report.outdated[video.video_id]


def test_shards_divide_what_is_missing_and_write_what_one_extraction_writes(extract, samples, tmp_path):
    extract(samples, out=tmp_path / "once")
    extract(samples[:8], out=tmp_path / "shards")
    for index in range(2):
        extract(samples, out=tmp_path / "shards", part=Part(index, 2))
    cache = require_complete(tmp_path / "shards")
    require_equal_features(cache, Cache.open(tmp_path / "once"))


def test_of_two_that_write_the_same_video_for_different_annotations_neither_is_lost(
    extract, samples, tmp_path, monkeypatch
):
    """The second finds the video's unit written when it is about to write it, and adds what that lacks."""
    one = first_of_each_video(samples)[0]
    early, late = (replace(one, segment=segment, sample_id=name) for segment, name in (((0, 25), "a"), ((25, 50), "b")))
    early, late = (replace(s, moment=s.segment, boxes=np.tile([1.0, 2, 30, 40], (25, 1))) for s in (early, late))
    plan, other = runner.plan, []

    def planned(cache, video_id, assumed):
        found = plan(cache, video_id, assumed)
        if not other:
            other.append(True)
            extract([late], annotation_set="late")
        return found

    monkeypatch.setattr(runner, "plan", planned)
    done = extract([early], annotation_set="early")
    assert (done.report.videos, done.report.topped_up) == (0, 1)
    for name in ("early", "late"):
        require_complete(tmp_path / "cache", annotation_set=name)
    assert len(Cache.open(tmp_path / "cache").store.keys("more")) == 1


def test_a_lost_first_unit_is_written_again_beside_its_additions(extract, samples, tmp_path):
    some = [replace(s, segment=s.moment) for s in first_of_each_video(samples)[:1]]
    whole = [replace(s, segment=(0, s.video.frame_count)) for s in some]
    extract(some)
    extract(whole)
    shutil.rmtree(tmp_path / "cache" / "videos")
    assert extract(whole).report.topped_up == 1
    require_complete(tmp_path / "cache")
    assert len(Cache.open(tmp_path / "cache").store.keys("videos")) == 1


@pytest.fixture
def two_datasets(samples, synthetic, tmp_path, extract):
    """A cache of the first three videos, and a second dataset in which the first one's id names the second one's file."""
    first = first_of_each_video(samples)[:3]
    extract(first, annotation_set="one")
    videos = tmp_path / "other videos"
    shutil.copytree(synthetic / "vidor" / "video", videos)
    for path in videos.rglob("*.mp4"):
        os.utime(path, ns=(7, 7))  # as a copy has it
    os.replace(videos / first[1].video.path, videos / first[0].video.path)
    other = [replace(first[0], sentence="another film"), replace(first[2], sentence="the same film")]
    return tmp_path / "cache", other, videos, first[0].video.video_id


def readable(cache: Path, name: str) -> set[str]:
    seen = Cache.open(cache, name)
    found = seen.covered(range(len(seen.samples)))
    return {video for video, there in zip(seen.samples.video_ids, found, strict=True) if there}


@pytest.mark.parametrize("same_size", [False, True])
def test_a_second_dataset_never_reads_the_features_of_another_file_of_the_same_id(
    two_datasets, extract, same_size, caplog, stvg
):
    cache, other, videos, mistaken = two_datasets
    if same_size:
        size, place = Cache.open(cache, "one").unit(mistaken).source["bytes"], videos / other[0].video.path
        place.write_bytes(place.read_bytes()[:size].ljust(size, b"\0"))
    done = extract(other, annotation_set="two", videos=videos)
    assert done.report.outdated.keys() == {mistaken}
    assert len(readable(cache, "one")) == 3
    assert readable(cache, "two") == {other[1].video.video_id}
    data = CachedDataset(Cache.open(cache, "two"), "train", Sampling(5.0, 100), ())
    assert data.missing == [other[0].sample_id]
    assert f"annotation set two and are not read: {mistaken};" in caplog.text
    assert stvg("cache", "info", cache).out.count(f"another file or size than in these annotations: {mistaken}") == 1


def test_a_file_that_was_not_compared_yet_is_not_trusted_even_when_the_extraction_was_killed(
    two_datasets, extract, monkeypatch
):
    cache, other, videos, _ = two_datasets

    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner.Extraction, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            extract(other, annotation_set="two", videos=videos)
    assert readable(cache, "two") == set()
    assert len(readable(cache, "one")) == 3
    extract(other, annotation_set="two", videos=videos)
    assert readable(cache, "two") == {other[1].video.video_id}


def test_a_mistaken_file_that_is_mended_is_read_again(two_datasets, extract, synthetic):
    cache, other, videos, mistaken = two_datasets
    extract(other, annotation_set="two", videos=videos)
    shutil.copy(synthetic / "vidor" / "video" / other[0].video.path, videos / other[0].video.path)
    assert not extract(other, annotation_set="two", videos=videos).report.outdated
    assert mistaken in readable(cache, "two")
    assert not Cache.open(cache, "two").annotations.files


def test_a_set_of_another_picture_size_reads_nothing_of_that_video(samples, extract, tmp_path):
    first = first_of_each_video(samples)[:2]
    extract(first, annotation_set="one")
    wide = [replace(first[0], video=replace(first[0].video, width=first[0].video.width + 2)), first[1]]
    assert len(extract(wide, annotation_set="two").report.outdated) == 1
    assert readable(tmp_path / "cache", "two") == {first[1].video.video_id}
