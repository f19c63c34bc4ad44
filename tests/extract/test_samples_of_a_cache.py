"""A cache holds the samples it was made of; whoever goes on with it works on these, whatever is read meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from stvg.atomic import write_atomic
from stvg.cache import making
from stvg.cache.header import SAMPLES
from stvg.cache.index import Cache
from stvg.cache.merge import merge
from stvg.cache.sampling import Sampling
from stvg.cache.verify import verify
from stvg.errors import CacheError
from stvg.extract import job as jobs
from stvg.extract import runner
from stvg.extract.encoders.text import build_text_encoder
from stvg.objects import HEADER

from ..cache.caches import RECIPE, make_cache, make_samples
from ..conftest import extract_synthetic

FEW, MANY = 2, 40
"""--max-frames that admit fewer and all of the training samples."""


class Killed(Exception):
    pass


def extract_train(data: Path, out: Path, max_frames: int) -> Path:
    return extract_synthetic(data, out, splits=["train"], sampling=Sampling(5.0, max_frames))


def kill_before_text(monkeypatch, data: Path, out: Path, max_frames: int) -> None:
    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(runner, "write_text", killed)
        with pytest.raises(Killed):
            extract_train(data, out, max_frames)


def require_own_tokens(cache: Cache) -> None:
    encoder = build_text_encoder("tiny")
    for row, sample in zip(cache.samples.text_rows.tolist(), cache.samples, strict=True):
        expected = encoder.encode([sample.sentence])[0]
        np.testing.assert_allclose(cache.text(row), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("first", "then"), [(FEW, MANY), (MANY, FEW)])
def test_another_max_frames_on_a_begun_cache_is_refused_with_numbers(synthetic, tmp_path, monkeypatch, first, then):
    out = tmp_path / "cache"
    kill_before_text(monkeypatch, synthetic, out, first)
    with pytest.raises(CacheError, match="made of other samples") as refused:
        extract_train(synthetic, out, then)
    assert f"cache has {first}, asked for {then}" in str(refused.value)
    assert f"{len(Cache.open(out).samples)} in the cache" in str(refused.value)
    assert Cache.open(out).store.keys("text") == []
    extract_train(synthetic, out, first)
    require_own_tokens(Cache.open(out))
    assert verify(out).problems == []


def test_an_older_cache_keeps_its_samples_and_says_so(synthetic, tmp_path, monkeypatch):
    from dataclasses import replace

    from stvg.cache.index import read_header

    out = tmp_path / "cache"
    kill_before_text(monkeypatch, synthetic, out, FEW)
    write_atomic(out / HEADER, replace(read_header(out), admitted_by=None).to_bytes())
    few = len(Cache.open(out).samples)
    told: list[str] = []
    patched = jobs.extract
    monkeypatch.setattr(jobs, "extract", lambda *a, **k: told.append(a[0]) or patched(*a, **k))
    ready = jobs.prepare
    monkeypatch.setattr(jobs, "prepare", lambda job: told.append(found := ready(job)) or found)
    extract_train(synthetic, out, MANY)
    assert f"{few} in the cache" in told[0].warnings[0]
    assert len(told[1]) == few
    require_own_tokens(Cache.open(out))


def test_the_same_samples_under_another_max_frames_are_no_difference(synthetic, own_cache):
    before = {p: p.stat().st_mtime_ns for p in own_cache.rglob("*") if p.is_file()}
    extract_synthetic(synthetic, own_cache, sampling=Sampling(5.0, MANY + 1))
    assert {p: p.stat().st_mtime_ns for p in own_cache.rglob("*") if p.is_file()} == before


def test_other_splits_of_a_cache_are_named(synthetic, own_cache):
    with pytest.raises(CacheError, match=r"splits +cache has train, test, asked for test"):
        extract_synthetic(synthetic, own_cache, splits=["test"])


def test_a_split_named_twice_is_read_once(synthetic, tmp_path):
    cache = Cache.open(extract_synthetic(synthetic, tmp_path / "c", splits=["test", "test"]))
    ids = [(s.split, s.sample_id) for s in cache.samples]
    assert len(ids) == len(set(ids))


def test_another_store_is_refused(synthetic, own_cache):
    with pytest.raises(CacheError, match="--store zarr"):
        extract_synthetic(synthetic, own_cache, store="hdf5")


def test_text_of_other_sentences_is_noticed_by_the_next_extraction(tmp_path):
    one, other = make_cache(tmp_path / "a", range(2)), make_cache(tmp_path / "b", range(3))
    (other.store.place("text/00000")).rename(tmp_path / "old")
    (one.store.place("text/00000")).rename(other.store.place("text/00000"))
    with pytest.raises(CacheError, match="does not belong to this cache"):
        runner.write_text(Cache.open(other.path), build_text_encoder("tiny"), runner.Options())


def begin(out: Path, count: int, made: list[Cache], refused: list[str]) -> None:
    try:
        made.append(Cache.create(out, RECIPE, make_samples(range(count)), "zarr", {}, None, {"max_frames": count}))
    except CacheError as met:
        refused.append(str(met))


def test_of_extractors_that_begin_at_once_one_decides_and_the_cache_is_whole(tmp_path):
    """Each with samples of its own; run often, since the order differs."""
    for turn in range(10):
        out, made, refused = tmp_path / str(turn), [], []
        team = [threading.Thread(target=begin, args=(out, count, made, refused)) for count in range(1, 5)]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        assert len(made) == 1
        assert all("made of other samples" in met for met in refused), refused
        assert len(Cache.open(out).samples) == len(made[0].samples)


def test_a_table_that_a_killed_extractor_left_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "WAITS", 2)
    left = make_cache(tmp_path / "left", range(3))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / SAMPLES).write_bytes((left.path / SAMPLES).read_bytes())
    assert len(make_cache(tmp_path / "c", range(2)).samples) == len(make_samples(range(2)))
    assert verify(tmp_path / "c").problems == []


def test_shards_of_other_samples_are_not_merged(tmp_path):
    for name, count in (("a", 2), ("b", 3)):
        Cache.create(tmp_path / name, RECIPE, make_samples(range(count)), "zarr", {}, None, {"max_frames": count})
    with pytest.raises(CacheError, match="the first has 2, the second 3"):
        merge(tmp_path / "m", [tmp_path / "a", tmp_path / "b"])
    assert not (tmp_path / "m").exists()


def test_what_chose_the_samples_goes_along_into_copies(stvg, tmp_path):
    rule = {"splits": ["train"], "max_frames": 7, "on_bad_record": "raise"}
    Cache.create(tmp_path / "a", RECIPE, make_samples(range(2)), "zarr", {}, None, rule)
    assert stvg("cache", "convert", tmp_path / "a", tmp_path / "b", "--store", "hdf5").code == 0
    merge(tmp_path / "m", [tmp_path / "a"])
    for name in ("b", "m"):
        assert Cache.open(tmp_path / name).header.admitted_by == rule
    assert "max_frames         7" in stvg("cache", "info", tmp_path / "b").out
