"""The promises of a feature store, held by both backends; what is one backend's own stands at the end."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from awscrt.checksums import crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from stvg.cache.stores import chunk_file
from stvg.cache.stores import contract as store_module
from stvg.cache.stores import rows as rows_module
from stvg.cache.stores import unit as unit_module
from stvg.cache.stores.contract import Store
from stvg.cache.stores.kinds import open_store
from stvg.cache.stores.unit import CHUNK_BYTES, ArrayFacts, UnitRecord
from stvg.errors import CacheError, UsageError

BACKENDS = ("zarr", "hdf5")
DTYPES = ("float16", "float32", "uint8", "int32", "int64")
KEY = "videos/4kd0uB2X.mp4"
# Function-scoped folders are fine: every example writes under a key of its own.
slow = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    return request.param


@pytest.fixture
def store(tmp_path, backend) -> Store:
    return open_store(tmp_path / "cache", backend)


def fill(store: Store, key: str, arrays: dict[str, np.ndarray], attributes: dict | None = None, step: int = 7) -> bool:
    with store.writer(key) as writer:
        for name, array in arrays.items():
            writer.add(name, array.shape, array.dtype)
            for at in range(0, len(array), step):
                writer.append(name, array[at : at + step])
        return writer.commit(attributes or {})


def features(rows: int = 9, seed: int = 0) -> dict[str, np.ndarray]:
    """A map with one row to a chunk (``c5``), tokens with many (``hidden``), and an array without rows (``roi``)."""
    rng = np.random.default_rng(seed)
    return {
        "c5": rng.standard_normal((rows, 3, 5, 2200)).astype(np.float16),
        "hidden": rng.standard_normal((rows * 20, 96)).astype(np.float32),
        "roi": np.empty((0, 4, 4, 8), np.float16),
    }


def fresh(store: Store) -> Store:
    """The same store with nothing open and nothing remembered."""
    return pickle.loads(pickle.dumps(store))


def files_of(store: Store, key: str) -> list[Path]:
    place = store.place(key)
    return [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


# ---- what goes in comes out

counter = iter(range(10**9))
written = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays_of.arrays(
        dtype,
        st.lists(st.integers(1, 6), max_size=3).flatmap(lambda tail: st.integers(0, 40).map(lambda n: (n, *tail))),
    )
)


@slow
@given(array=written, step=st.integers(1, 50), chunk_bytes=st.sampled_from([1, 16, 100, CHUNK_BYTES]), data=st.data())
def test_store_returns_exactly_what_was_written(store, array, step, chunk_bytes, data):
    key = f"videos/{next(counter)}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_module, "CHUNK_BYTES", chunk_bytes)
        patch.setattr(rows_module, "SCRATCH_BYTES", 50)
        fill(store, key, {"x": array}, step=step)
        assert same(store.read(key, "x"), array)
        if len(array):
            rows = np.array(data.draw(st.lists(st.integers(0, len(array) - 1), max_size=60)), dtype=np.int64)
            assert same(store.read(key, "x", rows), array[rows])
        cut = data.draw(st.slices(len(array)))
        assert same(store.read(key, "x", cut), array[cut])
    assert store.check(key) == []
    assert store.arrays(key)["x"].shape == array.shape
    assert store.arrays(key)["x"].dtype == array.dtype


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@slow
@given(attributes=st.dictionaries(st.text(), json_values, max_size=4), name=st.text(min_size=1, max_size=260))
def test_attributes_come_back_under_any_name(store, attributes, name):
    key = f"videos/{next(counter)}{name}"
    fill(store, key, {}, attributes)
    assert store.attributes(key) == attributes
    assert store.contains(key)
    assert key in store.keys("videos")


def test_attributes_may_be_long(store):
    attributes = {"frames": list(range(50_000))}  # HDF5 allows a fixed-size attribute 64 KiB
    fill(store, KEY, {}, attributes)
    assert fresh(store).attributes(KEY) == attributes


@pytest.mark.parametrize("attributes", [{"x": float("nan")}, {"x": np.int64(1)}, {"x": b""}])
def test_attributes_json_cannot_hold_are_refused_and_nothing_is_stored(store, attributes):
    with pytest.raises((TypeError, ValueError)):
        fill(store, KEY, features(), attributes)
    assert not store.contains(KEY)
    assert store.strays("videos") == []


def test_rows_come_in_any_order_strided_and_repeated(store):
    arrays = features()
    fill(store, KEY, arrays)
    hidden = arrays["hidden"]
    for rows in (
        np.arange(0, 180, 2),
        np.arange(179, -1, -1),
        np.array([5, 5, 170, 0, 171, 172, 5]),
        np.r_[0:170, 3:180],
        slice(None, None, -3),
        slice(100, 200),
        np.array([], dtype=np.int64),
        np.arange(180, dtype=np.uint8),
    ):
        assert same(store.read(KEY, "hidden", rows), hidden[rows])
    assert same(store.read(KEY, "c5", np.array([8, 0, 4, 5, 6])), arrays["c5"][[8, 0, 4, 5, 6]])


def test_the_callers_buffer_is_filled_and_returned(store):
    arrays = features()
    fill(store, KEY, arrays)
    out = np.empty((4, 3, 5, 2200), np.float16)
    for rows in (slice(0, 4), slice(1, 9, 2), np.array([3, 1, 0, 7])):
        assert store.read(KEY, "c5", rows, out=out) is out
        assert same(out, arrays["c5"][rows])


@pytest.mark.parametrize(
    "out",
    [np.empty((3, 96), np.float32), np.empty((2, 96), np.float16), np.empty((2, 192), np.float32)[:, ::2]],
    ids=["shape", "type", "strided"],
)
def test_a_buffer_that_does_not_fit_is_refused(store, out):
    fill(store, KEY, features())
    with pytest.raises(ValueError, match="out"):
        store.read(KEY, "hidden", slice(0, 2), out=out)


@pytest.mark.parametrize("rows", [[180], [-1], [0.5], [True], [[1]]])
def test_rows_that_are_not_there_are_refused(store, rows):
    fill(store, KEY, features())
    with pytest.raises(IndexError, match="rows"):
        store.read(KEY, "hidden", np.array(rows))


def test_an_array_without_rows_is_read_as_such(store):
    fill(store, KEY, features())
    assert store.read(KEY, "roi").shape == (0, 4, 4, 8)
    assert store.read(KEY, "roi", np.array([], dtype=np.int64)).dtype == np.float16


def test_values_no_loss_likes_are_stored_bit_for_bit(store):
    array = np.array([[np.nan, np.inf, -0.0, 65504, 6e-8]], np.float16)
    fill(store, KEY, {"x": array})
    assert same(store.read(KEY, "x"), array)


def test_arrays_may_be_filled_by_turns(store):
    arrays = features()
    with store.writer(KEY) as writer:
        for name, array in arrays.items():
            writer.add(name, array.shape, array.dtype)
        for i in range(9):
            writer.append("c5", arrays["c5"][i : i + 1])
            writer.append("hidden", arrays["hidden"][i * 20 : (i + 1) * 20])
        assert writer.commit({})
    assert all(same(store.read(KEY, name), array) for name, array in arrays.items())


def test_equal_units_are_equal_files(tmp_path, backend):
    stores = [open_store(tmp_path / name, backend) for name in "ab"]
    for store, step in zip(stores, (1, 5), strict=True):
        fill(store, KEY, features(), {"a": 1}, step)
    first, second = ([path.read_bytes() for path in files_of(store, KEY)] for store in stores)
    assert first == second


def test_keys_are_sorted_and_kept_by_room(store):
    for key in ("videos/b", "text/00001", "videos/a/b", "videos/" + "long" * 100, "text/00000"):
        fill(store, key, {})
    assert store.keys("videos") == ["videos/a/b", "videos/b", "videos/" + "long" * 100]
    assert store.keys("text") == ["text/00000", "text/00001"]
    assert store.keys("audio") == []


@pytest.mark.parametrize("key", ["videos", "videos/", "/x", "../x", ".tmp-/x", "A b/x"])
def test_a_key_that_is_no_room_and_name_is_refused(store, key):
    with pytest.raises(ValueError, match="key"):
        store.contains(key)


# ---- complete or invisible


def test_a_unit_is_invisible_until_committed(store):
    with store.writer(KEY) as writer:
        writer.add("x", (1,), "uint8")
        writer.append("x", np.zeros(1, np.uint8))
        assert not store.contains(KEY)
        assert store.keys("videos") == []
        with pytest.raises(CacheError, match="not there"):
            store.read(KEY, "x")
        writer.commit({})
        assert store.contains(KEY)


@pytest.mark.parametrize("end", ["no commit", "exception"])
def test_an_abandoned_writer_leaves_nothing(store, end):
    def abandon():
        with store.writer(KEY) as writer:
            writer.add("c5", (9, 3), "float16")
            writer.append("c5", np.zeros((4, 3), np.float16))
            if end == "exception":
                raise KeyboardInterrupt

    if end == "exception":
        with pytest.raises(KeyboardInterrupt):
            abandon()
    else:
        abandon()
    assert list((store.path / "videos").iterdir()) == []


def test_a_short_array_is_not_committed(store):
    with store.writer(KEY) as writer:
        writer.add("c5", (9, 3), "float16")
        writer.append("c5", np.zeros((4, 3), np.float16))
        with pytest.raises(CacheError, match="incomplete"):
            writer.commit({})
    assert list((store.path / "videos").iterdir()) == []


@pytest.mark.parametrize(
    "block",
    [np.zeros((10, 3), "f2"), np.zeros((2, 4), "f2"), np.zeros((2, 3), "f4"), np.zeros(3, "f2"), np.float16(0)],
    ids=["too many", "width", "type", "axes", "scalar"],
)
def test_rows_that_were_not_declared_are_refused(store, block):
    with store.writer(KEY) as writer:
        writer.add("c5", (9, 3), "float16")
        with pytest.raises(ValueError, match="c5"):
            writer.append("c5", block)


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        *((name, (1,), "u1") for name in ("Y", "a/b", "zarr.json", "", "y", "é", "x" * 81)),
        *(("x", shape, "u1") for shape in ((), (-1,), (3, 0))),
        *(("x", (1,), dtype) for dtype in ("U3", "O", "c8", "M8[s]")),
    ],
)
def test_arrays_that_cannot_be_stored_are_refused_when_declared(store, name, shape, dtype):
    with store.writer(KEY) as writer:
        writer.add("y", (1,), "u1")
        with pytest.raises(ValueError):
            writer.add(name, shape, dtype)


def test_a_writer_is_done_after_its_commit(store):
    with store.writer(KEY) as writer:
        writer.add("x", (0,), "u1")
        writer.commit({})
        for again in (lambda: writer.commit({}), lambda: writer.append("x", np.zeros(0, "u1"))):
            with pytest.raises(ValueError, match="already committed"):
                again()


def test_a_committed_unit_is_never_overwritten(store):
    first, second = features(seed=1), features(seed=2)
    assert fill(store, KEY, first, {"writer": 1})
    assert not fill(store, KEY, second, {"writer": 2})
    assert store.attributes(KEY) == {"writer": 1}
    assert same(fresh(store).read(KEY, "c5"), first["c5"])
    assert store.strays("videos") == []


def test_two_writers_of_one_key_leave_one_whole_unit(store):
    both = [features(seed=1), features(seed=2)]
    start = threading.Barrier(2)

    def write(i: int) -> bool:
        start.wait()
        return fill(fresh(store), KEY, both[i], {"writer": i}, step=1)

    with ThreadPoolExecutor(2) as pool:
        won = list(pool.map(write, range(2)))
    assert any(won)
    assert store.check(KEY) == []
    stands = store.attributes(KEY)["writer"]
    assert all(same(store.read(KEY, name), array) for name, array in both[stands].items())
    assert store.strays("videos") == []


WRITE_FOR_EVER = """
import sys, numpy as np
from pathlib import Path
from stvg.cache.stores.kinds import open_store
store = open_store(Path(sys.argv[1]), sys.argv[2])
for i in range(10**6):
    with store.writer(f"videos/{i}") as writer:
        writer.add("c5", (6, 3, 2200), "float32")
        writer.add("hidden", (60, 96), "float32")
        for row in range(6):
            writer.append("c5", np.full((1, 3, 2200), i, "float32"))
            writer.append("hidden", np.full((10, 96), i, "float32"))
        writer.commit({"number": i})
    print(i, flush=True)
"""


def test_a_killed_writer_loses_only_the_unit_in_flight(tmp_path, backend):
    rng = random.Random(backend)
    for attempt in range(3):
        store = open_store(tmp_path / str(attempt), backend)
        command = [sys.executable, "-c", WRITE_FOR_EVER, store.path, backend]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            done = {int(writer.stdout.readline())}
            time.sleep(rng.uniform(0, 0.03))
            writer.send_signal(signal.SIGKILL)
            done |= {int(line) for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")}
        keys = store.keys("videos")
        assert {f"videos/{i}" for i in done} <= set(keys)
        assert len(keys) <= len(done) + 1
        for key in keys:
            assert store.check(key) == []
            assert (store.read(key, "c5") == store.attributes(key)["number"]).all()
        left = store.strays("videos")
        assert len(left) <= 1
        fill(store, "videos/next", features(2))  # the next writer sweeps
        assert store.strays("videos") == []


def test_a_sweep_spares_writers_at_work(store):
    with store.writer(KEY) as writer:
        writer.add("x", (1,), "u1")
        assert fresh(store).sweep() == []
        fill(fresh(store), "videos/other", features(2))
        writer.append("x", np.ones(1, "u1"))
        writer.commit({})
    assert store.keys("videos") == [KEY, "videos/other"]


# ---- damage is named


def outcome(store: Store, arrays: dict[str, np.ndarray], attributes: dict) -> str:
    """Reads everything: 'exact', or the error's text. Anything but these two fails."""
    try:
        assert store.attributes(KEY) == attributes
        assert store.arrays(KEY).keys() == arrays.keys()
        for name, array in arrays.items():
            assert same(store.read(KEY, name), array)
    except CacheError as error:
        return str(error)
    return "exact"


def test_no_flipped_bit_is_ever_returned_as_a_feature(store):
    rng = random.Random(5)
    arrays = {"c5": features(2)["c5"], "roi": np.arange(90, dtype=np.int32).reshape(30, 3)}
    attributes = {"frames": [1, 5, 9], "fingerprint": "0123abcd"}
    fill(store, KEY, arrays, attributes)
    noticed = 0
    for path in files_of(store, KEY):
        whole = path.read_bytes()
        # Everywhere in small files; in large ones also close to both ends, where formats keep what they need.
        places = [*range(min(len(whole), 700)), *range(max(0, len(whole) - 500), len(whole))]
        for at in rng.sample(sorted(set(places)), min(len(set(places)), 80)) + rng.choices(range(len(whole)), k=15):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            told = outcome(fresh(store), arrays, attributes)
            noticed += told != "exact"
            assert fresh(store).check(KEY), f"bit {at} of {path.name}"
            assert told == "exact" or "4kd0uB2X" in told
        path.write_bytes(whole)
    assert noticed > 20  # readers look at less than `check` does
    assert outcome(fresh(store), arrays, attributes) == "exact"


def test_a_flipped_bit_is_reported_with_unit_array_and_chunk(store):
    array = np.arange(5 * 40_000, dtype=np.int64).reshape(5, 40_000)
    fill(store, KEY, {"c4": array, "c5": array})
    for path in files_of(store, KEY):
        content = bytearray(path.read_bytes())
        at = content.find(array[3, 100:200].tobytes())
        if at >= 0 and path.parent.name != "c5":
            content[at] ^= 4
            path.write_bytes(content)
    damaged = fresh(store)
    with pytest.raises(CacheError, match=r"videos/4kd0uB2X.mp4, array c4: chunk 3 \(rows 3 to 3\).* is damaged"):
        damaged.read(KEY, "c4", np.array([1, 3]))
    assert same(damaged.read(KEY, "c4", np.array([0, 1, 2, 4])), array[[0, 1, 2, 4]])  # the rest stays readable
    assert same(damaged.read(KEY, "c5"), array)
    (problem,) = damaged.check(KEY)
    assert "array c4: chunk 3" in problem


def test_a_truncated_file_is_an_error_at_any_length(store):
    arrays = {"c5": features(3)["c5"]}
    fill(store, KEY, arrays, {"a": 1})
    for path in files_of(store, KEY):
        whole = path.read_bytes()
        for length in {0, 1, len(whole) // 2, len(whole) - 9, len(whole) - 1}:
            path.write_bytes(whole[:length])
            assert fresh(store).check(KEY), f"{path.name} cut to {length}"
            if path.name != "zarr.json":  # there for other readers only
                assert "4kd0uB2X" in outcome(fresh(store), arrays, {"a": 1}).replace("exact", "")
        path.write_bytes(whole)


def test_a_deleted_file_is_an_error(store):
    arrays = {"c5": features(2)["c5"]}
    fill(store, KEY, arrays, {"a": 1})
    for path in files_of(store, KEY):
        whole = path.read_bytes()
        path.unlink()
        assert fresh(store).check(KEY)
        if path.name != "zarr.json":
            assert "4kd0uB2X" in outcome(fresh(store), arrays, {"a": 1})
        path.write_bytes(whole)
    assert fresh(store).check(KEY) == []


def test_a_file_cut_while_it_is_open_is_an_error(store):
    array = features(4)["c5"]
    fill(store, KEY, {"c5": array})
    assert same(store.read(KEY, "c5"), array)
    (path,) = (path for path in files_of(store, KEY) if path.stat().st_size > array.nbytes)
    os.truncate(path, array.nbytes // 2)
    with pytest.raises(CacheError, match=r"4kd0uB2X.mp4, array c5: chunk .* cut off"):
        store.read(KEY, "c5", np.array([3]))


def test_a_disk_that_fails_is_named(store, monkeypatch):
    fill(store, KEY, features())

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(chunk_file.os, "preadv", fail)
    with pytest.raises(CacheError, match=r"array c5: chunk 2 .* cannot be read"):
        store.read(KEY, "c5", np.array([2]))


def test_reads_the_system_cuts_short_are_continued(store, monkeypatch):
    arrays = features()
    fill(store, KEY, arrays)
    whole = os.preadv

    def stingy(descriptor, buffers, offset):
        return whole(descriptor, [memoryview(buffers[0])[:5000]], offset)

    monkeypatch.setattr(chunk_file.os, "preadv", stingy)
    assert all(same(store.read(KEY, name), array) for name, array in arrays.items())


def test_a_missing_unit_or_array_is_named(store):
    with pytest.raises(CacheError, match="4kd0uB2X"):
        store.attributes(KEY)
    assert len(store.check(KEY)) == 1
    fill(store, KEY, features())
    with pytest.raises(CacheError, match="no array 'c7'"):
        store.read(KEY, "c7")


def test_a_unit_under_another_name_is_noticed(store):
    fill(store, KEY, features())
    os.rename(store.place(KEY), store.place("videos/other"))
    with pytest.raises(CacheError, match="holds another unit"):
        store.read("videos/other", "c5")


def test_foreign_things_are_no_units_and_are_listed(store):
    fill(store, KEY, features())
    for name in (".hidden", "notes.txt", "a b", "__x"):
        (store.path / "videos" / name).mkdir()
    assert store.keys("videos") == [KEY]
    assert [path.name for path in store.strays("videos")] == [".hidden", "__x", "a b", "notes.txt"]


def test_a_record_of_another_format_is_refused(monkeypatch):
    monkeypatch.setattr(unit_module, "FORMAT_VERSION", 99)
    stored = UnitRecord(KEY, {}, {"x": ArrayFacts.of((3,), "u1")}).to_bytes()
    monkeypatch.undo()
    with pytest.raises(CacheError, match="another format"):
        UnitRecord.from_bytes(stored, KEY, "here")


# ---- many readers


def test_threads_share_a_store(store):
    arrays = features(30)
    fill(store, KEY, arrays)

    def read(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        name = ("c5", "hidden")[seed % 2]
        rows = rng.integers(0, len(arrays[name]), 50)
        return same(store.read(KEY, name, rows), arrays[name][rows])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(80)))


def test_more_arrays_than_may_be_open_are_read(store, monkeypatch):
    monkeypatch.setattr(store_module, "OPEN_ARRAYS", 3)
    store = fresh(store)
    for i in range(8):
        fill(store, f"videos/{i}", {"x": np.full(5, i)})
    before = len(os.listdir("/dev/fd"))
    for i in [*range(8), *range(8)]:
        assert (store.read(f"videos/{i}", "x") == i).all()
    assert len(os.listdir("/dev/fd")) <= before + 3
    del store
    assert len(os.listdir("/dev/fd")) == before


def _read_in_child(store: Store) -> bytes:
    return store.read(KEY, "hidden", np.arange(0, 180, 3)).tobytes()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_goes_along_to_worker_processes(store, method):
    arrays = features()
    fill(store, KEY, arrays)
    store.read(KEY, "hidden")  # so that something is open when the worker starts
    code = (
        "import sys, pickle, numpy as np; store = pickle.load(sys.stdin.buffer);"
        f"sys.stdout.buffer.write(store.read({KEY!r}, 'hidden', np.arange(0, 180, 3)).tobytes())"
    )
    if method == "fork":
        with multiprocessing.get_context("fork").Pool(2) as pool:
            read = set(pool.map(_read_in_child, [store] * 4)) | {pool.apply(_read_in_child, (store,))}
    else:
        pickled = pickle.dumps(store)
        read = {subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=True).stdout}
    assert read == {arrays["hidden"][::3].tobytes()}


def test_a_program_that_keeps_a_store_to_its_end_ends_quietly(store):
    """Modules may be taken apart first; an open file that then looked for `os` would write a traceback for every array."""
    fill(store, KEY, features())
    code = (
        "import os, pathlib; from stvg.cache.stores.kinds import open_store;"
        f"kept = open_store(pathlib.Path({str(store.path)!r})); [kept.read({KEY!r}, n) for n in kept.arrays({KEY!r})];"
        "os.kept = lambda: kept"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


# ---- which backend


def test_a_folder_tells_its_backend(store):
    fill(store, KEY, features())
    assert type(open_store(store.path)) is type(store)


def test_a_folder_of_no_or_both_backends_cannot_be_told(tmp_path):
    with pytest.raises(CacheError, match="cannot be determined"):
        open_store(tmp_path)
    for backend in BACKENDS:
        fill(open_store(tmp_path, backend), KEY, {})
    with pytest.raises(CacheError, match="zarr and hdf5"):
        open_store(tmp_path)


def test_an_unknown_backend_is_refused(tmp_path):
    with pytest.raises(UsageError, match="lmdb"):
        open_store(tmp_path, "lmdb")


# ---- what other programs see


@pytest.mark.parametrize("dtype", [*DTYPES, "bool", "float64", "uint16"])
def test_zarr_reads_a_unit_as_we_do(tmp_path, dtype):
    import zarr

    store = open_store(tmp_path, "zarr")
    rng = np.random.default_rng(3)
    arrays = {
        "wide": rng.integers(0, 2, (5, 3, 70_000 // np.dtype(dtype).itemsize)).astype(dtype),  # one row to a chunk
        "narrow": rng.integers(0, 2, (70_000, 3)).astype(dtype),  # the last chunk is padded
        "flat": rng.integers(0, 2, 7).astype(dtype),
        "empty": np.empty((0, 4), dtype),
    }
    fill(store, KEY, arrays, {"frames": [3, 5]}, step=1000)
    group = zarr.open_group(store.place(KEY), mode="r")
    assert group.attrs["frames"] == [3, 5]
    for name, array in arrays.items():
        assert same(group[name][:], array)
        assert same(store.read(KEY, name), array)


def test_a_zarr_array_is_plain_bytes_from_the_start_of_its_file(tmp_path):
    store = open_store(tmp_path, "zarr")
    array = features()["c5"]
    fill(store, KEY, {"c5": array})
    (path,) = store.place(KEY).glob("c5/c.*")
    assert same(np.memmap(path, array.dtype, "r", shape=array.shape), array)


def test_the_record_holds_the_checksum_of_every_chunk(store):
    arrays = {"c5": features()["c5"], "x": np.arange(90_000, dtype=np.int32).reshape(30_000, 3)}
    fill(store, KEY, arrays)
    for name, array in arrays.items():
        per = store.arrays(KEY)[name].rows_per_chunk
        expected = [crc32c(array[at : at + per].tobytes()) for at in range(0, len(array), per)]
        assert np.frombuffer(store.arrays(KEY)[name].sums, "<u4").tolist() == expected


def test_a_zarr_folder_without_its_record_is_invisible_and_in_the_way(tmp_path):
    store = open_store(tmp_path, "zarr")
    fill(store, KEY, features())
    (store.place(KEY) / "record.json").unlink()
    assert not store.contains(KEY)
    assert store.keys("videos") == []
    assert store.strays("videos") == [store.place(KEY)]
    with pytest.raises(CacheError, match="in the way"):
        fill(store, KEY, features())
    shutil.rmtree(store.place(KEY))
    assert fill(store, KEY, features())


def test_foreign_and_changed_files_in_a_zarr_unit_are_found(tmp_path):
    store = open_store(tmp_path, "zarr")
    fill(store, KEY, features())
    (store.place(KEY) / "c5" / "c.1.0.0.0").write_bytes(b"x")
    metadata = store.place(KEY) / "c5" / "zarr.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "fill_value": 1.0}))
    first, second = store.check(KEY)
    assert "c5/c.1.0.0.0 does not belong there" in first
    assert "c5/zarr.json is damaged" in second


@pytest.mark.parametrize("damage", ["a byte too many", "index", "checksum of the index"])
def test_a_damaged_zarr_shard_index_is_found(tmp_path, damage):
    store = open_store(tmp_path, "zarr")
    fill(store, KEY, {"c5": features()["c5"]})
    path = store.place(KEY) / "c5" / "c.0.0.0.0"
    content = bytearray(path.read_bytes())
    if damage == "a byte too many":
        content += b"x"
    else:
        content[-1 if damage != "index" else -30] ^= 1
    path.write_bytes(content)
    (problem,) = store.check(KEY)
    assert "c5" in problem
    if damage == "a byte too many":
        with pytest.raises(CacheError, match="array c5"):
            store.read(KEY, "c5")
    else:  # the index is for other readers: ours know where chunks lie
        assert same(store.read(KEY, "c5"), features()["c5"])


def test_h5py_reads_a_unit_as_we_do(tmp_path):
    store = open_store(tmp_path, "hdf5")
    arrays = features()
    fill(store, KEY, arrays)
    with h5py.File(store.place(KEY), "r") as file:
        assert all(same(file[name][:], array) for name, array in arrays.items())
        assert json.loads(file.attrs["record"])["key"] == KEY


def test_foreign_datasets_in_an_hdf5_unit_are_found(tmp_path):
    store = open_store(tmp_path, "hdf5")
    fill(store, KEY, features())
    with h5py.File(store.place(KEY), "a") as file:
        file["extra"] = [1]
        del file["roi"]
    missing, foreign = store.check(KEY)
    assert "roi is missing" in missing
    assert "extra does not belong there" in foreign


def test_reading_zarr_units_loads_no_storage_library():
    code = (
        "import sys, pathlib; from stvg.cache.stores.kinds import open_store; open_store(pathlib.Path('x'), 'zarr');"
        "assert not {'zarr', 'h5py', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_chunk_is_checked_when_first_read_and_again_once_its_file_was_touched(tmp_path):
    """Within one store: rows read before are taken on trust, new rows are not, and neither is a file that changed."""
    store = open_store(tmp_path, "zarr")
    values = np.arange(40, dtype=np.float32).reshape(4, 10).repeat(3000, axis=1)
    with store.writer("videos/v") as unit:
        unit.add("c5", values.shape, values.dtype)
        unit.append("c5", values)
        unit.commit({})
    (shard,) = (tmp_path / "videos").rglob("c.0.0")
    assert np.array_equal(store.read("videos/v", "c5", slice(0, 2)), values[:2])
    whole = bytearray(shard.read_bytes())
    whole[len(whole) * 3 // 4] ^= 1
    shard.write_bytes(whole)
    with pytest.raises(CacheError, match="chunk"):
        store.read("videos/v", "c5")
    whole[100] ^= 1
    shard.write_bytes(whole)
    os.utime(shard, ns=(1, 1))
    store._opened.cache_clear()  # as when many other arrays were read meanwhile
    with pytest.raises(CacheError, match="chunk 0"):
        store.read("videos/v", "c5", slice(0, 1))
