"""Every unit knows the file it is of: a file that was replaced, or that changes while it is read, is noticed."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from stvg.cache.index import Cache
from stvg.cache.stores.unit import UnitRecord
from stvg.cache.stores.zarr_store import RECORD
from stvg.cache.upkeep.merge import merge
from stvg.cache.video_unit import video_key
from stvg.errors import VideoError
from stvg.extract import runner
from stvg.extract.video.source import Sources

from ..conftest import extract_synthetic


@pytest.fixture
def data(synthetic, tmp_path) -> Path:
    """A copy whose videos may be replaced."""
    return shutil.copytree(synthetic, tmp_path / "data")


@pytest.fixture
def files(data) -> list[Path]:
    return sorted(data.glob("vidor/video/*/*.mp4"))


def look(cache: Path, *pairs: tuple[str, Path]) -> dict[str, str]:
    with Sources(Cache.open(cache)) as sources:
        for video_id, file in pairs:
            sources.compare(video_id, file)
        return sources.outdated()


def words(data: Path, out: Path) -> list[object]:
    options = [
        "--split",
        "train",
        "--split",
        "test",
        "--backbone",
        "tiny",
        "--resolution",
        "96",
        "--max-frames",
        "40",
        "--device",
        "cpu",
    ]
    return ["extract", "--dataset", "vidstg", "--annotations", data, "--out", out, *options]


@pytest.mark.parametrize("store", ["zarr", "hdf5"])
def test_a_unit_says_which_file_it_is_of(synthetic, tiny_cache, tmp_path, store):
    cache = Cache.open(tiny_cache)
    if store == "hdf5":
        cache = Cache.open(extract_synthetic(synthetic, tmp_path / "h", store=store, splits=["test"]))
    for key in cache.store.keys("videos"):
        video_id = key.removeprefix(video_key(""))
        (file,) = synthetic.glob(f"vidor/video/*/{video_id}.mp4")
        found = cache.unit(video_id).source
        assert found["bytes"] == file.stat().st_size
        assert found["mtime_ns"] == file.stat().st_mtime_ns
        assert found["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_file_of_another_size_or_content_is_named_and_one_that_was_copied_is_not(tiny_cache, files):
    one, other, third = files[:3]
    assert look(tiny_cache, *((file.stem, file) for file in files[:3])) == {}
    os.utime(one, ns=(1, 1))  # copied: another time, the same content
    other.write_bytes(other.read_bytes() + b"\0")
    content = bytearray(third.read_bytes())
    content[-1] ^= 1
    third.write_bytes(content)
    os.utime(third, ns=(2, 2))
    found = look(tiny_cache, *((file.stem, file) for file in files[:3]))
    assert found.keys() == {other.stem, third.stem}
    assert f"{other.stat().st_size:,} bytes" in found[other.stem]
    assert "SHA-256" in found[third.stem]
    assert str(tiny_cache / "videos" / other.stem) in found[other.stem]


def test_a_repeated_extraction_names_a_replaced_file_and_fails_until_it_is_mended(data, files, own_cache, stvg):
    whole = files[0].read_bytes()
    shutil.copy(files[1], files[0])
    ran = stvg(*words(data, own_cache))
    assert ran.code == 3
    assert f"{files[0]} is another file than video {files[0].stem} was extracted from" in ran.err
    assert "1 of another file" in ran.out
    files[0].write_bytes(whole)
    assert stvg(*words(data, own_cache)).code == 0


def test_the_hint_for_a_replaced_file_helps(data, files, own_cache, stvg):
    content = bytearray(files[0].read_bytes())
    files[0].write_bytes(content + b"\0")
    (place,) = [w for w in stvg(*words(data, own_cache)).err.split() if w.startswith(str(own_cache / "videos"))]
    shutil.rmtree(place)
    assert stvg(*words(data, own_cache)).code == 0
    assert Cache.open(own_cache).unit(files[0].stem).source["bytes"] == len(content) + 1


def test_units_without_a_record_of_their_file_are_read_and_compared_with_none(data, files, own_cache, stvg):
    for place in (own_cache / "videos").iterdir():
        record = UnitRecord.from_bytes((place / RECORD).read_bytes(), None, place)
        del record.attributes["source"]
        (place / RECORD).write_bytes(record.to_bytes())
    files[0].write_bytes(files[0].read_bytes() + b"\0")
    assert look(own_cache, (files[0].stem, files[0])) == {}
    assert Cache.open(own_cache).unit(files[0].stem).source == {}
    assert stvg("cache", "verify", own_cache).code == 0


def test_a_damaged_unit_is_named_by_the_next_extraction(own_cache, files):
    record = own_cache / "videos" / files[0].stem / RECORD
    record.write_bytes(record.read_bytes().replace(b"bytes", b"bites"))
    assert "verify --repair" in look(own_cache, (files[0].stem, files[0]))[files[0].stem]


def extraction_during_which(monkeypatch, changed: Path, change) -> list[runner.Report]:
    """Let ``change`` happen to a file once it is being decoded; the reports of all extractions."""
    reports: list[runner.Report] = []
    read, run = Sources.read, runner.Extraction.run

    def reading(self, file):
        found = read(self, file)
        if file == changed:
            found.digest.result()
            change(file)
        return found

    monkeypatch.setattr(Sources, "read", reading)
    monkeypatch.setattr(runner.Extraction, "run", lambda self: reports.append(report := run(self)) or report)
    return reports


def rewrite(file: Path) -> None:
    file.write_bytes(file.read_bytes())


def grow(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"more")


def replace_by_link(file: Path) -> None:
    """Another file of the same size and time, renamed into place."""
    other = file.with_name("other")
    shutil.copy2(file, other)
    other.rename(file)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("change", [rewrite, grow, replace_by_link, cut], ids=lambda change: change.__name__)
def test_a_file_that_changes_while_it_is_read_is_left_out_and_tried_again(data, files, tmp_path, monkeypatch, change):
    victim, whole = files[0], files[0].read_bytes()
    with monkeypatch.context() as patch:
        reports = extraction_during_which(patch, victim, change)
        extract_synthetic(data, tmp_path / "cache", splits=["train"])
    assert reports[0].skipped.keys() == {victim.stem}
    assert "changed while it was read" in reports[0].skipped[victim.stem]
    cache = Cache.open(tmp_path / "cache")
    assert not cache.store.contains(video_key(victim.stem))
    assert len(cache.store.keys("videos")) == 5
    assert not cache.skipped()
    victim.write_bytes(whole)
    extract_synthetic(data, tmp_path / "cache", splits=["train"])
    assert len(cache.store.keys("videos")) == 6


def test_a_strict_extraction_stops_at_a_file_that_changes(data, files, tmp_path, monkeypatch):
    extraction_during_which(monkeypatch, files[0], grow)
    with pytest.raises(VideoError, match="changed while it was read"):
        extract_synthetic(data, tmp_path / "cache", splits=["train"], strict=True)


def test_shards_of_copies_of_one_dataset_are_merged(synthetic, data, files, tmp_path):
    for file in files:
        os.utime(file, ns=(5, 5))
    one = extract_synthetic(synthetic, tmp_path / "a", splits=["test"])
    other = extract_synthetic(data, tmp_path / "b", splits=["test"])
    merge(tmp_path / "m", [one, other])
    assert Cache.open(tmp_path / "m").store.keys("videos") == Cache.open(one).store.keys("videos")
