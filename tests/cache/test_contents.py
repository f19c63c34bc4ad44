"""What of a split a cache can serve, as a run's record holds it: equal where training reads the same, and else named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stvg.cache.contents import Contents
from stvg.cache.index import Cache
from stvg.errors import CacheError

from .caches import annotated, make_cache, make_samples, write_video


def recorded(cache: Cache) -> Contents:
    """As it is read back from a record."""
    return Contents.from_json(json.loads(json.dumps(cache.contents("train").to_json())))


def test_contents_are_the_complete_videos_and_their_samples(tmp_path):
    found = make_cache(tmp_path / "a", range(3), samples=range(5)).contents("train")
    assert list(found.videos) == ["v0", "v1", "v2"]
    assert found.samples == 9
    assert found.videos["v0"][0] == 3


def test_contents_survive_a_record_and_another_store(tmp_path):
    cache, other = make_cache(tmp_path / "a"), make_cache(tmp_path / "b", store="hdf5")
    assert recorded(cache).digest == cache.contents("train").digest == other.contents("train").digest
    assert recorded(cache).changes(other.contents("train")) == []


def test_a_video_that_came_is_named(tmp_path):
    cache = make_cache(tmp_path / "a", range(3), samples=range(5))
    then = recorded(cache)
    write_video(cache, "v4", 4)
    now = cache.contents("train")
    assert then.digest != now.digest
    assert then.changes(now) == ["1 video added: v4", "9 samples then, 12 now"]
    assert now.changes(then) == ["1 video removed: v4", "12 samples then, 9 now"]


@pytest.mark.parametrize(
    "change",
    [
        {"sentence": "another"},
        {"moment": (11, 31)},
        {"segment": (0, 59)},
        {"sample_id": "0"},
        {"boxes": make_samples(range(1))[0].boxes + 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_samples_that_are_not_the_same_are_named_by_their_video(tmp_path, change):
    cache = make_cache(tmp_path / "a", range(2))
    samples = make_samples(range(2))
    samples[0] = replace(samples[0], **change)
    other = annotated(tmp_path / "b", samples)
    for v in range(2):
        write_video(other, f"v{v}", v)
    assert recorded(cache).changes(other.contents("train")) == ["1 video with other samples: v0"]


def test_a_video_that_was_extracted_from_another_file_is_named_where_both_files_are_known(tmp_path):
    found = {}
    for name, source in (("older", {}), ("one", {"sha256": "f" * 64}), ("other", {"sha256": "e" * 64})):
        cache = make_cache(tmp_path / name, range(1), samples=range(2))
        write_video(cache, "v1", 1, **({"source": source} if source else {}))
        found[name] = recorded(cache)
    assert found["one"].changes(found["other"]) == ["1 video of another file: v1"]
    assert found["one"].changes(found["older"]) == found["older"].changes(found["one"]) == []
    assert found["one"].changes(found["one"]) == []


def test_another_order_of_the_samples_is_noticed(tmp_path):
    cache = make_cache(tmp_path / "a", range(2))
    other = annotated(tmp_path / "b", make_samples(range(2))[::-1])
    for v in range(2):
        write_video(other, f"v{v}", v)
    then = recorded(cache)
    now = other.contents("train")
    assert then.digest != now.digest
    assert len(then.changes(now)) == 1


def test_a_split_elsewhere_in_the_table_changes_nothing(tmp_path):
    cache = make_cache(tmp_path / "a", range(2))
    test = [replace(s, split="test") for s in make_samples(range(2, 4))]
    other = annotated(tmp_path / "b", [*test, *make_samples(range(2))])
    for v in range(4):
        write_video(other, f"v{v}", v)
    assert cache.contents("train").digest == other.contents("train").digest


def test_what_is_no_recorded_contents_is_refused():
    with pytest.raises(CacheError, match="cannot be read"):
        Contents.from_json({"videos": 3})
