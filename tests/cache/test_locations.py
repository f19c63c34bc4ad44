"""Where a cache lies: every character of an address is kept, or the address is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stvg.cache.index import Cache
from stvg.cache.upkeep.verify import verify
from stvg.errors import UsageError
from stvg.objects import ObjectPath, local_path, location

from .caches import contents, make_cache

ODD = ["a#b", "a?b", "a%20b", "a b", "a+b", "a%", "ä", "a&b=c", "a:b@c", "~a"]


@pytest.mark.parametrize("name", ODD)
def test_no_character_of_an_address_is_cut_off(name, tmp_path):
    assert location(f"s3://bucket/x/{name}/y") == ObjectPath("s3://bucket", f"x/{name}/y")
    assert str(location(f"s3://bucket/{name}")) == f"s3://bucket/{name}"
    assert location(f"caches/{name}") == Path("caches", name)
    assert location((tmp_path / name).as_uri()) == tmp_path / name


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1))
def test_a_file_url_is_the_path_it_was_made_of(name):
    path = Path("/caches", name)
    assert location(path.as_uri()) == path


def test_characters_that_a_file_url_need_not_escape_are_kept():
    assert location("file:///caches/a#b?c") == Path("/caches/a#b?c")
    assert location("file://localhost/caches") == Path("/caches")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file://relative",
        "file://relative/cache",
        "file://./cache",
        "file://",
        "file:cache",
        "file:/cache",
        "s3:/bucket/cache",
        "S3:/bucket/cache",
        "s3://",
        "s3:///cache",
        "s3://bucket#x/cache",
        "s3://bucket?x",
        "s3://buck%20et/cache",
        "s3://key:secret@bucket/cache",
        "s3://bucket//cache",
        "s3://bucket/a//b",
        "s3://bucket/a/../b",
        "s3://bucket/./a",
        "s3://bucket/a\nb",
        "https://host/cache?signature=x",
        "https://host/cache#x",
    ],
)
def test_an_address_that_could_mean_another_place_is_refused(text):
    with pytest.raises(UsageError, match="location"):
        location(text)


def test_a_local_path_is_no_address_of_object_storage():
    assert local_path("runs/a#b?c%20d") == Path("runs/a#b?c%20d")
    assert local_path("file:///runs/a%20b") == Path("/runs/a b")
    with pytest.raises(UsageError, match="not on this machine"):
        local_path("s3://bucket/runs")


@pytest.mark.parametrize("name", ODD)
def test_caches_whose_names_differ_after_an_odd_character_are_two(name, tmp_path):
    for folder in (tmp_path / "local", location(f"memory://{abs(hash(name))}/x")):
        one, other = make_cache(folder / name, range(1)), make_cache(folder / f"{name}2", range(2))
        assert len(contents(one)) + 1 == len(contents(other))
        assert Cache.open(location(str(one.path))).store.keys("videos") == ["videos/v0"]
        assert verify(one.path).problems == []


def test_every_option_that_takes_a_place_refuses_an_address_it_cannot_use(stvg, tmp_path):
    for words in (
        ["cache", "info", "file://relative"],
        ["cache", "verify", "s3:/bucket/x"],
        ["cache", "convert", "s3://bucket?x", tmp_path, "--store", "zarr"],
        ["cache", "merge", tmp_path / "m", "file://relative"],
        ["extract", "--dataset", "json", "--annotations", tmp_path, "--out", "s3:///x"],
        ["extract", "--dataset", "json", "--annotations", "s3://bucket/x", "--out", tmp_path / "c"],
        ["train-head", "--cache", tmp_path, "--out", "s3://bucket/run"],
        ["train-head", "--cache", "file://relative", "--out", tmp_path / "run"],
        ["predict", "a.mp4", "words", "--checkpoint", "x", "--cache", "s3:/b"],
        ["ablate", "--cache", "s3://bucket#x"],
        ["evaluate", "--cache", "", "--checkpoint", "x"],
    ):
        ran = stvg(*words)
        assert ran.code, words
        assert "location" in ran.err or "not on this machine" in ran.err, (words, ran.err)
        assert "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == []


def test_merging_in_object_storage_says_that_it_needs_folders(stvg, tmp_path):
    make_cache(tmp_path / "a", range(1))
    assert "local folders" in stvg("cache", "merge", "s3://bucket/m", tmp_path / "a").err
