"""The dry run: what it counts is what is then written, and it writes nothing itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stvg.cache.index import Cache
from stvg.errors import CacheError
from stvg.extract.estimate import estimate
from stvg.extract.runner import Part

from .test_launchers import job_of


def test_frames_and_bytes_are_those_the_extraction_then_writes(synthetic, tiny_cache, tmp_path):
    found = estimate(job_of(synthetic, tmp_path / "c", "roi"))
    assert not (tmp_path / "c").exists()
    store = Cache.open(tiny_cache).store
    keys = store.keys("videos")
    arrays = [facts for key in keys for facts in store.arrays(key).values()]
    assert (found.videos, found.missing, found.already) == (len(keys), 0, 0)
    assert found.frames == sum(store.arrays(key)["c5"].shape[0] for key in keys)
    text = sum(facts.shape[0] * facts.row_bytes for facts in store.arrays(store.keys("text")[0]).values())
    assert found.bytes - sum(f.shape[0] * f.row_bytes for f in arrays) == pytest.approx(text, rel=0.1)
    assert found.speed is not None
    assert found.speed.videos == 4
    assert 0 < found.speed.decode < 10
    assert 0 < found.speed.encode < 10
    assert found.lines()[-1] == "nothing was written"


def test_what_is_there_already_is_not_counted_again(synthetic, tiny_cache):
    found = estimate(replace(job_of(synthetic, tiny_cache, "roi"), part=Part(0, 2)))
    assert (found.videos, found.already, found.frames, found.bytes, found.speed) == (0, 4, 0, 0, None)
    with pytest.raises(CacheError, match="resolution"):
        estimate(replace(job_of(synthetic, tiny_cache, "roi"), resolution=64))
