"""Whatever happens to a cache's files, `verify` names it, no reader returns it, and `repair` lets it be extracted again."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stvg.atomic import temporary_name
from stvg.cache.annotations import AnnotationSet
from stvg.cache.index import Cache
from stvg.cache.set_files import remove_set
from stvg.cache.upkeep.verify import repair, verify
from stvg.cache.video_unit import video_key
from stvg.errors import CacheError, StvgError
from stvg.objects import HEADER

from .caches import (
    FRAMES,
    RECIPE,
    contents,
    features,
    make_cache,
    make_samples,
    token_features,
    write_text,
    write_video,
)

BACKENDS = ("zarr", "hdf5")


@pytest.fixture(params=BACKENDS)
def cache(request, tmp_path) -> Path:
    """Four videos stored, a fifth skipped."""
    opened = make_cache(tmp_path / "cache", range(4), request.param, samples=range(5))
    opened.skip("v4", "it is not there")
    return opened.path


def messages(path: Path) -> str:
    return "\n".join(problem.message for problem in verify(path).problems)


def read_everything(path: Path) -> None:
    """All a user could read: every value is what was written, or a CacheError is raised."""
    errors = 0
    try:
        cache = Cache.open(path)
    except CacheError:
        return
    expected = make_samples(range(5))
    try:
        _ = cache.samples.boxes
    except CacheError:
        return
    assert [s.sample_id for s in cache.samples] == [s.sample_id for s in expected]
    assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(cache.samples, expected, strict=True))
    for v in range(4):
        try:
            assert cache.unit(f"v{v}").frames.tolist() == FRAMES.tolist()
            assert cache.store.read(video_key(f"v{v}"), "c5").tobytes() == features(v).tobytes()
        except CacheError:
            errors += 1
    for sentence in dict.fromkeys(s.sentence for s in expected):
        try:
            assert cache.texts.read(sentence).numpy().tobytes() == token_features(sentence).tobytes()
        except CacheError:
            errors += 1
    try:
        assert cache.skipped().keys() <= {f"v{v}" for v in range(5)}
    except CacheError:
        errors += 1


def test_a_whole_cache_has_no_problems(cache):
    findings = verify(cache)
    assert findings.problems == []
    assert findings.units == 5
    read_everything(cache)


@pytest.mark.parametrize("seed", range(50))
def test_one_flipped_bit_cut_deleted_or_foreign_file_anywhere_is_named_and_never_read(cache, seed):
    rng = random.Random(seed)
    files = sorted(path for path in cache.rglob("*") if path.is_file())
    kind = ("bit", "bit", "cut", "gone", "foreign")[seed % 5]
    victim = rng.choice(files)
    whole = victim.read_bytes()
    if kind == "bit":
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        victim.write_bytes(flipped)
    elif kind == "cut":
        victim.write_bytes(whole[: rng.randrange(len(whole))])
    elif kind == "gone":
        victim.unlink()
    else:
        victim = rng.choice([path for path in [cache, *cache.rglob("*")] if path.is_dir()]) / rng.choice(
            ("x", "c.9", "v9.h5")
        )
        victim.write_bytes(whole)
    told = messages(cache)
    part = victim.relative_to(cache).parts
    name = part[0] if len(part) == 1 else part[1].removesuffix(".h5")
    if kind == "gone" and name == "skipped.jsonl":
        name = "videos/v4 is missing"
    if kind == "gone" and len(part) == 2 and part[0] == "text":
        name = "sentences of annotation set json are missing"
    assert name in told, (kind, victim, told)
    read_everything(cache)


def test_a_file_of_somebody_else_inside_a_unit_is_named_and_costs_nothing(tmp_path):
    path = make_cache(tmp_path / "cache", range(2), "zarr").path
    stray = path / "videos" / "v1" / ".DS_Store"
    stray.write_text("mine")
    before = contents(Cache.open(path))
    findings = verify(path)
    assert ".DS_Store does not belong there; it is left alone" in "\n".join(p.message for p in findings.problems)
    assert repair(findings) == []
    assert stray.read_text() == "mine"
    assert contents(Cache.open(path)) == before


def test_a_repaired_cache_is_filled_again_exactly_where_it_was_damaged(cache, tmp_path):
    before = contents(Cache.open(cache))
    victim = next(p for p in sorted((cache / "videos").rglob("*")) if p.is_file() and p.stat().st_size > 50_000)
    content = bytearray(victim.read_bytes())
    content[40_000] ^= 1
    victim.write_bytes(content)
    (cache / "videos" / "notes.txt").write_text("mine")
    findings = verify(cache)
    assert len(findings.problems) == 2
    (removed,) = repair(findings)
    assert removed.name.removesuffix(".h5") == "v0"
    assert (cache / "videos" / "notes.txt").read_text() == "mine"
    assert "videos/v0 is missing" in messages(cache)
    write_video(Cache.open(cache), "v0", 0)
    (cache / "videos" / "notes.txt").unlink()
    assert verify(cache).problems == []
    assert contents(Cache.open(cache)) == before


def test_a_damaged_header_is_written_again_by_the_next_extraction(cache):
    store = Cache.open(cache).header.store
    before = contents(Cache.open(cache))
    (cache / HEADER).write_bytes((cache / HEADER).read_bytes()[:-1] + b"?")
    with pytest.raises(CacheError, match=f"{HEADER} is damaged"):
        Cache.open(cache)
    assert [path.name for path in repair(verify(cache))] == [HEADER]
    other = "hdf5" if store == "zarr" else "zarr"
    for wrong in ({"recipe": replace(RECIPE, fps=2.0), "store": store}, {"recipe": RECIPE, "store": other}):
        with pytest.raises(CacheError, match="units of another cache"):
            Cache.create(cache, versions={}, **wrong)
    Cache.create(cache, RECIPE, store, {})
    assert verify(cache).problems == []
    assert contents(Cache.open(cache)) == before


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_a_damaged_annotation_set_goes_as_a_whole_and_no_unit_with_it(cache, suffix):
    before = contents(Cache.open(cache))
    (victim,) = (path for path in (cache / "annotations").iterdir() if path.suffix == suffix)
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    with pytest.raises(CacheError, match=f"{victim.name} is damaged"):
        _ = Cache.open(cache).samples
    assert {path.suffix for path in repair(verify(cache))} == {".json", ".parquet"}
    assert verify(cache).problems == []
    Cache.open(cache).annotate(AnnotationSet.of("json", "json", make_samples(range(5))))
    assert verify(cache).problems == []
    assert contents(Cache.open(cache)) == before


def test_units_that_no_set_asks_for_are_no_fault_and_stay(cache):
    opened = Cache.open(cache)
    write_video(opened, "v9", 9)
    write_text(opened, ["nobody asks this"])
    findings = verify(cache)
    assert (findings.problems, findings.units) == ([], 7)
    remove_set(cache, "json")
    assert verify(cache).problems == []


def test_what_a_set_lacks_is_named(cache):
    opened = Cache.open(cache)
    late = [
        replace(s, sample_id=7000 + i, split="late", segment=(0, 60 - i)) for i, s in enumerate(make_samples(range(1)))
    ]
    late = [replace(s, segment=(2, 60), sentence="what else?") for s in late[:1]]
    opened.annotate(AnnotationSet.of("late", "json", late))
    told = messages(cache)
    assert "video v0 lacks 1 frame and 0 regions that annotation set late needs" in told
    assert "text: 1 sentence of annotation set late are missing, such as 'what else?'" in told


def test_damaged_lines_of_the_skip_list_are_named_and_repaired(cache):
    opened = Cache.open(cache)
    opened.skip("v4", "again")
    path = cache / "skipped.jsonl"
    path.write_bytes(path.read_bytes().replace(b"not there", b"not hhere", 1))
    with pytest.raises(CacheError, match="line 1 is damaged"):
        opened.skipped()
    repair(verify(cache))
    assert opened.skipped() == {"v4": "again"}
    assert verify(cache).problems == []


def test_units_of_another_recipe_are_named(cache, tmp_path):
    other = make_cache(tmp_path / "other", range(5), Cache.open(cache).header.store, fps=2.0)
    (text,) = other.store.keys("text")
    for key in ("videos/v1", text):
        mine, theirs = (Cache.open(p).store.place(key) for p in (cache, other.path))
        shutil.rmtree(mine) if mine.is_dir() else mine.unlink()
        (shutil.copytree if theirs.is_dir() else shutil.copy)(theirs, mine)
    told = messages(cache)
    assert "videos/v1: written with another recipe" in told
    assert f"{text}: written with another recipe" in told
    opened = Cache.open(cache)
    with pytest.raises(CacheError, match="another recipe"):
        opened.unit("v1")
    with pytest.raises(CacheError, match="another recipe"):
        opened.texts.read("who runs?")
    assert len(repair(verify(cache))) == 2
    write_text(opened)
    write_video(opened, "v1", 1)
    assert verify(cache).problems == []


def test_leftovers_of_killed_writers_are_named_and_those_of_live_ones_are_not(cache):
    live, dead = cache / "videos" / temporary_name(), cache / "videos" / ".tmp-999999999-00-nowhere"
    live.mkdir()
    dead.mkdir()
    os.utime(dead, (0, 0))
    findings = verify(cache)
    assert [problem.remove for problem in findings.problems] == [(dead,)]
    assert repair(findings) == [dead]
    assert live.exists()


def test_a_folder_that_is_not_there_is_an_error_and_not_a_finding(tmp_path):
    with pytest.raises(StvgError, match="not there"):
        verify(tmp_path / "nowhere")


@pytest.mark.parametrize("header", [None, b'{"my": "settings"}', b""])
def test_a_folder_that_is_no_cache_is_refused_and_nothing_in_it_is_removed(tmp_path, header):
    mine = {"samples.parquet": b"PAR1", "videos/a.mp4": b"a", "videos/b.h5": b"b", "text/notes": b"c"}
    mine |= {".tmp-999999999-00-nowhere": b"d", "skipped.jsonl": b"not ours\n"} | ({HEADER: header} if header else {})
    for name, content in mine.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (0, 0))
    with pytest.raises(CacheError, match="is no cache"):
        repair(verify(tmp_path))
    assert {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == mine


def test_a_cache_whose_header_is_gone_is_still_one(cache):
    (cache / HEADER).unlink()
    assert verify(cache).units == 5
