"""Shards become one cache that is byte for byte what one extraction would have written; conflicts are refused first."""

from __future__ import annotations

import errno
import os

import pytest

from stvg.cache import merge as merge_module
from stvg.cache.index import Cache, video_key
from stvg.cache.merge import merge
from stvg.cache.verify import verify
from stvg.errors import CacheError, UsageError

from .caches import contents, make_cache, write_video

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
def test_shards_of_other_videos_are_merged_with_their_sentences_numbered_anew(tmp_path, store):
    make_cache(tmp_path / "a", range(4), store)
    make_cache(tmp_path / "b", range(4, 7), store)
    whole = make_cache(tmp_path / "whole", range(7), store)
    merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    assert contents(Cache.open(tmp_path / "out")) == contents(whole)
    assert files(tmp_path / "out") == files(whole.path)


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
    with pytest.raises(CacheError, match="videos/v1 is stored twice, with different bytes"):
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

    def interrupted(source, target, key):
        if key == video_key("v1"):
            raise KeyboardInterrupt
        return whole(source, target, key)

    monkeypatch.setattr(merge_module, "link_unit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge(tmp_path / "out", [tmp_path / "0", tmp_path / "1"])
    monkeypatch.undo()
    merge(tmp_path / "out", [tmp_path / "0", tmp_path / "1"])
    assert verify(tmp_path / "out").problems == []
