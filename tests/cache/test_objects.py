"""A cache in object storage: the same promises, over a network that fails."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import numpy as np
import obstore
import obstore.exceptions
import obstore.store
import pytest
from safetensors.torch import load_file

from stvg import objects
from stvg.atomic import write_once
from stvg.cache import set_files
from stvg.cache.annotations import AnnotationSet
from stvg.cache.batches.dataset import CachedDataset
from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling
from stvg.cache.set_files import read_set, update_set
from stvg.cache.upkeep.convert import convert
from stvg.cache.upkeep.verify import repair, verify
from stvg.errors import CacheError, UsageError
from stvg.objects import ObjectPath, location

from .caches import FRAMES, contents, features, make_cache, make_samples, token_features, write_video
from .s3 import SLOW, s3_server

numbers = itertools.count()


def in_a_hurry(connect):
    """The library's way to a store, with hardly a pause before its own second attempts."""
    backoff = {"init_backoff": timedelta(milliseconds=5), "max_backoff": timedelta(milliseconds=50), "base": 2}

    def connected(*place, retry_config=None, **options):
        return connect(*place, retry_config={**(retry_config or {}), "backoff": backoff}, **options)

    return connected


@pytest.fixture(scope="module")
def server():
    with s3_server() as (door, address), pytest.MonkeyPatch.context() as patch:
        settings = {"AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        for name, value in (settings | {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}).items():
            patch.setenv(name, value)
        patch.setattr(objects, "SLOWEST_SECONDS", SLOW * 2 / 3)
        patch.setattr(objects, "SERVER_RETRIES", 3)
        patch.setattr(objects, "PATIENCE_SECONDS", 20)
        patch.setattr(objects, "PAUSE_SECONDS", 0.01)
        patch.setattr(obstore.store, "from_url", in_a_hurry(obstore.store.from_url))
        objects._connect.cache_clear()
        yield door
        objects._connect.cache_clear()


@pytest.fixture
def door(server):
    server.faults = {}
    server.met = dict.fromkeys(server.met, 0)
    yield server
    server.faults = {}


@pytest.fixture
def place(door) -> ObjectPath:
    """A new folder in the bucket."""
    return location(f"s3://bucket/caches/{next(numbers)}")


def test_a_url_is_a_place_in_storage_and_anything_else_a_path(tmp_path):
    assert location("s3://b/x/y") == ObjectPath("s3://b", "x/y")
    assert location("s3://b/x/") / "y" == ObjectPath("s3://b", "x/y")
    assert location(f"file://{tmp_path}") == tmp_path
    assert str(location("cache/x")) == "cache/x"
    assert str(location("s3://b/x/y").parent) == "s3://b/x"


@pytest.mark.parametrize("kind", ["s3", "memory"])
def test_what_is_written_to_storage_is_what_is_written_to_a_folder(place, tmp_path, kind):
    where = place if kind == "s3" else location("memory://one/two")
    remote, local = make_cache(where, range(3)), make_cache(tmp_path / "local", range(3))
    assert contents(remote) == contents(local)
    stored = {path.key.removeprefix(where.key + "/"): path.read_bytes() for path, _ in where.below()}
    assert stored == {
        p.relative_to(local.path).as_posix(): p.read_bytes() for p in local.path.rglob("*") if p.is_file()
    }
    assert verify(where).problems == []
    rows = np.array([11, 0, 3, 4, 5, 5])
    assert remote.store.read("videos/v1", "c5", rows).tobytes() == features(1)[rows].tobytes()


def test_zarr_opens_the_stored_units(place):
    zarr = pytest.importorskip("zarr")
    from obstore.store import from_url

    make_cache(place, range(1))
    opened = zarr.open_group(zarr.storage.ObjectStore(from_url(f"{place}/videos/v0"), read_only=True), mode="r")
    assert opened["c5"][:].tobytes() == features(0).tobytes()


def test_storage_keeps_every_character_of_an_address(place):
    odd = location(f"{place}/a#b?c%20d e+f/x")
    make_cache(odd, range(1))
    assert {path.key.split("/")[2] for path, _ in place.below()} == {"a#b?c%20d e+f"}
    assert verify(odd).problems == []
    assert contents(Cache.open(location(str(odd)))).keys() == contents(Cache.open(odd)).keys()


FAULTS = {"500": 0.1, "dropped": 0.1, "cut": 0.05, "slow": 0.01}


def test_nothing_is_lost_or_invented_while_the_server_fails_and_dawdles(place, door, tmp_path):
    local = make_cache(tmp_path / "local", range(4))
    door.faults = FAULTS
    convert(tmp_path / "local", place, "zarr")
    remote = Cache.open(place)
    assert contents(remote) == contents(local)
    dataset = CachedDataset(remote, "train", Sampling(5.0, 100), ())
    expected = CachedDataset(local, "train", Sampling(5.0, 100), ())
    for start in range(0, len(dataset), 6):
        batches = [d.collate([d[i] for i in range(start, start + 6)]) for d in (dataset, expected)]
        assert batches[0].inputs.maps.equal(batches[1].inputs.maps)
        assert batches[0].inputs.tokens.equal(batches[1].inputs.tokens)
    assert verify(place).problems == []
    assert min(door.met[fault] for fault in FAULTS) >= 1, door.met


def test_a_server_that_never_recovers_is_one_clear_error(place, door):
    cache = make_cache(place, range(1))
    door.faults = {"500": 1.0}
    with pytest.raises(CacheError, match="object storage") as error:
        cache.store.read("videos/v0", "c5")
    assert str(place) in str(error.value)
    with pytest.raises(CacheError, match="object storage"):
        write_video(cache, "v1", 1)
    door.faults = {}
    assert cache.store.keys("videos") == ["videos/v0"]
    write_video(cache, "v1", 1)
    assert cache.store.read("videos/v1", "c5").tobytes() == features(1).tobytes()


def test_an_upload_that_broke_off_is_invisible_and_replaced(place):
    cache = make_cache(place, range(2))
    record = place / "videos" / "v1" / "record.json"
    record._ask("delete")
    assert cache.store.keys("videos") == ["videos/v0"]
    with pytest.raises(CacheError, match="has no features of video v1"):
        cache.unit("v1")
    told = "\n".join(problem.message for problem in verify(place).problems)
    assert f"{place}/videos/v1 is an incomplete unit" in told
    write_video(cache, "v1", 1)
    assert cache.unit("v1").frames.tolist() == FRAMES.tolist()
    assert verify(place).problems == []


@pytest.mark.parametrize("victim", ["c.0.0.0.0", "zarr.json", "record.json", "json.json", "cache.json"])
def test_a_damaged_cut_or_deleted_object_is_named_and_never_read(place, victim):
    make_cache(place, range(2))
    places = (place / "videos" / "v0", place / "videos" / "v0" / "c5", place / "annotations", place)
    path = next(folder / victim for folder in places if (folder / victim).is_file())
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damage in (bytes(flipped), whole[:-3], None):
        path._ask("delete") if damage is None else path.write_bytes(damage)
        findings = verify(place)
        assert findings.problems
        assert findings.removable or damage is None
        if victim != "zarr.json":  # there for other readers only
            with pytest.raises(CacheError):
                read_some(place)
    repair(verify(place))
    if victim.endswith((".0", "zarr.json", "record.json")):
        write_video(Cache.open(place), "v0", 0)
    else:
        make_cache(place, range(2))
    assert verify(place).problems == []


@pytest.mark.parametrize("kind", ["s3", "memory"])
def test_of_two_extractors_that_write_one_set_at_once_none_loses_its_split(place, kind, monkeypatch):
    where = place if kind == "s3" else location("memory://one/sets")
    splits = {name: [replace(s, split=name) for s in make_samples(range(2))] for name in ("train", "val", "test")}
    sets = {name: AnnotationSet.of("s", "json", samples) for name, samples in splits.items()}
    write, late = set_files.write_set, ["val", "test"]

    def write_after_another(cache, new, tag=None):
        if late:
            update_set(cache, sets[late.pop()])
        return write(cache, new, tag)

    monkeypatch.setattr(set_files, "write_set", write_after_another)
    update_set(where, sets["train"])
    found = read_set(where, "s")
    assert found.splits.keys() == splits.keys()
    assert len(found.samples) == 18
    assert len(set_files.tables_of(where, "s")) == 1


def test_one_of_many_writers_makes_the_header_of_a_cache_in_storage(place, door):
    door.faults = {"500": 0.1, "dropped": 0.1}
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: write_once(place / "cache.json", bytes([n])), range(8)))
    assert won.count(True) == 1
    assert (place / "cache.json").read_bytes() == bytes([won.index(True)])


def test_skipped_videos_are_listed_in_storage(place):
    cache = make_cache(place, range(1), samples=range(3))
    cache.skip("v1", "cut off")
    cache.skip("v2", "not there")
    write_video(cache, "v1", 1)
    assert Cache.open(place).skipped() == {"v2": "not there"}
    assert verify(place).problems == []


def read_some(place: ObjectPath) -> None:
    cache = Cache.open(place)
    _ = cache.samples, cache.store.read("videos/v0", "c5")


def _read(cache: Cache) -> bytes:
    return cache.store.read("videos/v0", "c5").tobytes()


def test_spawned_workers_read_and_forked_ones_are_told_why_not(place):
    cache = make_cache(place, range(1))
    code = (
        "import sys, pickle; sys.stdout.buffer.write(pickle.load(sys.stdin.buffer).read('videos/v0', 'c5').tobytes())"
    )
    spawned = [sys.executable, "-c", code]
    ran = subprocess.run(spawned, input=pickle.dumps(cache.store), capture_output=True, check=True, timeout=60)
    assert ran.stdout == features(0).tobytes()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        answer = pool.apply_async(_read, (cache,))
        with pytest.raises(CacheError, match="forked process"):
            answer.get(30)


def test_a_cache_goes_to_storage_and_back(place, tmp_path):
    local = make_cache(tmp_path / "a", range(3))
    convert(tmp_path / "a", place, "zarr")
    convert(place, tmp_path / "b", "hdf5")
    assert contents(Cache.open(tmp_path / "b")) == contents(local)
    sent = pickle.loads(pickle.dumps(Cache.open(place)))
    assert sent.texts.read("who runs?").numpy().tobytes() == token_features("who runs?").tobytes()
    assert len(sent.samples) == 9


def test_what_storage_cannot_do_is_said(place):
    with pytest.raises(UsageError, match="cannot hold hdf5"):
        make_cache(place, range(1), "hdf5")
    with pytest.raises(CacheError, match="is not a cache"):
        Cache.open(place)
    with pytest.raises(UsageError, match="cannot be opened"):
        Cache.open(location("nonsense://bucket/x"))


def test_videos_are_extracted_to_storage_and_trained_from_it_while_it_fails(stvg, door, place, synthetic, tmp_path):
    """The whole way, with the commands a user types: the first attempt dies with the server, the second goes on."""
    data = shutil.copytree(synthetic, tmp_path / "data")
    words = ["extract", "--dataset", "vidstg", "--annotations", data, "--split", "train", "--split", "test"]
    words += ["--backbone", "tiny", "--resolution", "64", "--device", "cpu", "--out"]
    assert stvg(*words, tmp_path / "local").code == 0
    door.faults = {"500": 0.9}
    ran = stvg(*words, place)
    assert ran.code == 1
    assert ran.err.count("CacheError") == 1, ran.err
    door.faults = {"500": 0.2, "cut": 0.02}
    ran = stvg(*words, place)
    assert ran.code == 0, ran.err
    door.faults = {}
    assert contents(Cache.open(place)) == contents(Cache.open(tmp_path / "local"))
    shutil.rmtree(data)
    door.faults = FAULTS | {"slow": 0}
    small = ["--preset", "tiny", "--set", "train.epochs=1", "--set", "model.ffn=32", "--device", "cpu"]
    for where, out in ((place, "remote"), (tmp_path / "local", "folder")):
        ran = stvg("train-head", "--cache", where, "--out", tmp_path / out, *small)
        assert ran.code == 0, ran.err
    one, other = (load_file(tmp_path / out / "best.safetensors") for out in ("remote", "folder"))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)
    assert stvg("cache", "verify", place).code == 0


def test_a_storage_without_conditions_is_written_and_named(monkeypatch, caplog):
    """Its writers cannot see each other, so the user is told to let one at a time write."""
    where, put = location("memory://plain/header"), obstore.put

    def put_plainly(store, path, data, *, mode="overwrite", **options):
        if mode != "overwrite":
            raise obstore.exceptions.NotSupportedError("conditional put")
        return put(store, path, data, **options)

    monkeypatch.setattr(obstore, "put", put_plainly)
    assert where.write_unless_changed(b"one", None)
    assert where.read_bytes() == b"one"
    assert "has no conditional writes; let one process at a time write annotations there" in caplog.text
