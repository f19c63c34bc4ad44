"""Conversion loses nothing in either direction, and goes on where it was interrupted."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from stvg.cache.annotations import AnnotationSet
from stvg.cache.index import Cache
from stvg.cache.upkeep import convert as convert_module
from stvg.cache.upkeep.convert import convert
from stvg.cache.upkeep.verify import verify
from stvg.cache.video_unit import video_key
from stvg.errors import CacheError

from .caches import contents, make_cache, make_samples


def files(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("store", "other"), [("zarr", "hdf5"), ("hdf5", "zarr"), ("zarr", "zarr")])
def test_there_and_back_is_the_same_files(tmp_path, store, other):
    first = make_cache(tmp_path / "a", range(3), store, samples=range(4))
    first.skip("v3", "it is not there")
    assert convert(tmp_path / "a", tmp_path / "b", other) == 4
    assert convert(tmp_path / "b", tmp_path / "c", store) == 4
    second = Cache.open(tmp_path / "b")
    assert contents(second) == contents(first)
    assert second.recipe.fingerprint == first.recipe.fingerprint
    assert second.skipped() == {"v3": "it is not there"}
    assert verify(tmp_path / "b").problems == []
    files = [
        {p.relative_to(top): p.read_bytes() for p in top.rglob("*") if p.is_file()}
        for top in (tmp_path / "a", tmp_path / "c")
    ]
    assert files[0] == files[1]


def test_an_interrupted_conversion_goes_on_and_never_shows_half_a_unit(tmp_path, monkeypatch):
    make_cache(tmp_path / "a", range(4))
    whole = convert_module.copy_unit

    def interrupted(source, target, key, target_key):
        if key == video_key("v2"):
            raise KeyboardInterrupt
        return whole(source, target, key, target_key)

    monkeypatch.setattr(convert_module, "copy_unit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "a", tmp_path / "b", "hdf5")
    assert Cache.open(tmp_path / "b").store.keys("videos") == ["videos/v0", "videos/v1"]
    monkeypatch.undo()
    assert convert(tmp_path / "a", tmp_path / "b", "hdf5") == 2
    assert contents(Cache.open(tmp_path / "b")) == contents(Cache.open(tmp_path / "a"))


def test_damage_is_never_copied(tmp_path):
    cache = make_cache(tmp_path / "a", range(2))
    shard = next(cache.store.place("videos/v1").glob("c5/c.*"))
    content = bytearray(shard.read_bytes())
    content[9999] ^= 2
    shard.write_bytes(content)
    with pytest.raises(CacheError, match=r"videos/v1, array c5: chunk 0 .* is damaged"):
        convert(tmp_path / "a", tmp_path / "b", "hdf5")
    assert Cache.open(tmp_path / "b").store.keys("videos") == ["videos/v0"]


def test_another_caches_folder_is_refused_and_left_as_it_was(tmp_path):
    make_cache(tmp_path / "a", range(2))
    make_cache(tmp_path / "recipe", range(2), fps=2.0)
    make_cache(tmp_path / "samples", range(2)).annotate(AnnotationSet.of("json", "json", make_samples(range(1), 2)))
    changed = [replace(make_samples(range(1))[0], sentence="what else?")]
    Cache.open(tmp_path / "samples").annotate(AnnotationSet.of("json", "json", changed))
    make_cache(tmp_path / "store", range(2), "hdf5")
    for name, says in (
        ("recipe", "another recipe"),
        ("samples", "contradicts"),
        ("store", "has another store"),
        ("a", "itself"),
    ):
        before = contents(Cache.open(tmp_path / name))
        with pytest.raises(CacheError, match=says):
            convert(tmp_path / "a", tmp_path / name, "zarr")
        assert contents(Cache.open(tmp_path / name)) == before


def test_memory_does_not_grow_with_a_unit(tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "BLOCK_BYTES", 1 << 16)
    cache = make_cache(tmp_path / "a", range(1))
    with cache.store.writer("videos/long") as unit:
        unit.add("c5", (2000, 4, 5, 600), np.dtype("float16"))
        for _ in range(2000):
            unit.append("c5", np.zeros((1, 4, 5, 600), np.float16))
        unit.commit(cache.store.attributes("videos/v0"))
    tracemalloc.start()
    convert(tmp_path / "a", tmp_path / "b", "hdf5")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6  # the unit has 48 MB
