"""Shards become one cache that is byte for byte what one extraction would have written; conflicts are refused first."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import numpy as np
import pytest

from stvg.cache.annotations import AnnotationSet
from stvg.cache.index import Cache
from stvg.cache.set_files import set_names
from stvg.cache.upkeep import merge as merge_module
from stvg.cache.upkeep.merge import merge
from stvg.cache.upkeep.verify import verify
from stvg.cache.video_unit import more_key, video_key
from stvg.cache.view import View
from stvg.errors import CacheError, UsageError

from .caches import annotated, contents, make_cache, make_samples, write_video

BACKENDS = ("zarr", "hdf5")


def files(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("store", BACKENDS)
def test_shards_of_one_table_become_what_one_run_writes_without_copying(tmp_path, store):
    for i in range(3):
        make_cache(tmp_path / str(i), range(i, 9, 3), store, samples=range(9))
    whole = make_cache(tmp_path / "whole", range(9), store)
    assert merge(tmp_path / "out", [tmp_path / str(i) for i in range(3)]) == 10
    assert files(tmp_path / "out") == files(whole.path)
    assert verify(tmp_path / "out").problems == []
    unit = next(p for p in sorted((tmp_path / "out" / "videos").rglob("*")) if p.is_file())
    assert unit.stat().st_nlink == 2
    assert merge(tmp_path / "out", [tmp_path / str(i) for i in range(3)]) == 0


@pytest.mark.parametrize("store", BACKENDS)
def test_shards_of_other_videos_are_merged_as_they_are(tmp_path, store):
    one, other = make_cache(tmp_path / "a", range(4), store), make_cache(tmp_path / "b", range(4, 7), store)
    merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    merged = Cache.open(tmp_path / "out")
    assert contents(merged) == contents(one) | contents(other)
    assert merged.annotations.sha256 == AnnotationSet.of("json", "json", make_samples(range(7))).sha256
    assert merged.covered(range(21)).all()
    assert verify(tmp_path / "out").problems == []


def test_caches_of_different_annotations_of_the_same_videos_become_one(tmp_path):
    """Of a video that both hold, what the second adds is kept beside the first's unit."""
    first = annotated(tmp_path / "a", make_samples(range(2)), name="one", fps=2.5)
    other = annotated(tmp_path / "b", make_samples(range(1, 3)), name="two", fps=2.5)
    write_frames(first, "v1", [0, 10, 20])
    write_frames(other, "v1", [20, 30])
    write_frames(other, "v2", [0])
    write_frames(first, "v0", [0, 10])
    write_frames(other, "v0", [10])
    merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    merged = Cache.open(tmp_path / "out", "two")
    assert set_names(merged.path) == ["one", "two"]
    assert merged.store.keys("videos") == ["videos/v0", "videos/v1", "videos/v2"]
    assert merged.store.keys("more") == [more_key("v1", np.array([20, 30]), np.empty((0, 5)))]
    assert merged.unit("v1").frames.tolist() == [0, 10, 20, 30]
    assert files(tmp_path / "a" / "videos" / "v1") == files(tmp_path / "out" / "videos" / "v1")
    assert merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"]) == 0
    assert not any("lacks" not in p.message and "missing" not in p.message for p in verify(tmp_path / "out").problems)


def write_frames(cache, video_id, frames):
    """A unit whose maps say which frames they are of, written first of that video or beside what is there."""
    values = np.repeat(np.array(frames, np.float16), 4 * 5 * 600).reshape(-1, 4, 5, 600)
    key = more_key(video_id, np.array(frames), np.empty((0, 5))) if cache.unit_keys(video_id) else video_key(video_id)
    with cache.store.writer(key) as unit:
        unit.add("c5", values.shape, values.dtype)
        unit.append("c5", values)
        unit.add("c5_sums", (2, 600), np.float64)
        unit.append("c5_sums", np.zeros((2, 600)))
        facts = {"fingerprint": cache.recipe.fingerprint, "frames": frames, "views": [View(64, 64, 64, 64).to_json()]}
        unit.commit(facts)
    cache.look_again()


def test_a_video_of_two_different_files_is_refused(tmp_path):
    for name, source in (("a", "e" * 64), ("b", "f" * 64)):
        write_video(annotated(tmp_path / name, make_samples(range(1))), "v0", 0, source={"sha256": source})
    with pytest.raises(CacheError, match="different files or sizes of video v0"):
        merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    assert not (tmp_path / "out").exists()


def test_sets_of_one_name_that_contradict_each_other_are_refused_before_anything_is_written(tmp_path):
    make_cache(tmp_path / "a", range(2))
    make_cache(tmp_path / "b", range(2)).annotate(
        AnnotationSet.of("json", "json", [replace(make_samples(range(1))[0], sentence="what else?")])
    )
    with pytest.raises(CacheError, match="annotation set json contradicts"):
        merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    assert not (tmp_path / "out").exists()


def test_across_file_systems_units_are_copied(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    for store in BACKENDS:
        for i in range(2):
            make_cache(tmp_path / f"{store}{i}", range(i, 4, 2), store, samples=range(4))
        merge(tmp_path / store, [tmp_path / f"{store}0", tmp_path / f"{store}1"])
        assert verify(tmp_path / store).problems == []
        assert files(tmp_path / store) == files(make_cache(tmp_path / f"{store}-whole", range(4), store).path)


def test_a_video_two_shards_hold_differently_is_refused_before_anything_is_written(tmp_path):
    make_cache(tmp_path / "a", range(2), samples=range(3))
    other = make_cache(tmp_path / "b", range(1, 2), samples=range(3))
    write_video(other, "v2", 2)
    merge(tmp_path / "fine", [tmp_path / "a", tmp_path / "b"])  # v1 is in both, and the same
    different = make_cache(tmp_path / "c", range(0), samples=range(3))
    write_video(different, "v1", 77)
    with pytest.raises(CacheError, match="videos/v1 is stored twice, with different content"):
        merge(tmp_path / "out", [tmp_path / "a", tmp_path / "c"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(CacheError, match="videos/v1 is stored twice"):
        merge(tmp_path / "fine", [tmp_path / "c"])


def test_another_recipe_is_refused_field_by_field_and_another_store_with_the_command_to_run(tmp_path):
    make_cache(tmp_path / "a", range(2))
    make_cache(tmp_path / "recipe", range(2, 4), fps=2.0, resolution=96)
    make_cache(tmp_path / "store", range(2, 4), "hdf5")
    with pytest.raises(CacheError) as refusal:
        merge(tmp_path / "out", [tmp_path / "a", tmp_path / "recipe"])
    assert {"fps", "resolution"} <= refusal.value.facts.keys()
    with pytest.raises(CacheError) as refusal:
        merge(tmp_path / "out", [tmp_path / "a", tmp_path / "store"])
    assert "stvg cache convert" in refusal.value.facts["hint"]
    with pytest.raises(UsageError, match="with itself"):
        merge(tmp_path / "a", [tmp_path / "a"])
    assert not (tmp_path / "out").exists()


def test_skips_of_all_shards_are_kept_unless_another_shard_has_the_video(tmp_path):
    first = make_cache(tmp_path / "a", range(2), samples=range(4))
    second = make_cache(tmp_path / "b", range(2, 3), samples=range(4))
    first.skip("v2", "cut off")
    first.skip("v3", "not there")
    second.skip("v3", "not there")
    merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    assert Cache.open(tmp_path / "out").skipped() == {"v3": "not there"}
    assert len((tmp_path / "out" / "skipped.jsonl").read_text().splitlines()) == 1
    assert verify(tmp_path / "out").problems == []


def test_an_interrupted_merge_goes_on(tmp_path, monkeypatch):
    for i in range(2):
        make_cache(tmp_path / str(i), range(i, 4, 2), samples=range(4))
    whole = merge_module.link_unit

    def interrupted(source, target, key, target_key):
        if key == video_key("v1"):
            raise KeyboardInterrupt
        return whole(source, target, key, target_key)

    monkeypatch.setattr(merge_module, "link_unit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge(tmp_path / "out", [tmp_path / "0", tmp_path / "1"])
    monkeypatch.undo()
    merge(tmp_path / "out", [tmp_path / "0", tmp_path / "1"])
    assert verify(tmp_path / "out").problems == []
