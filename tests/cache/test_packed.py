"""Packed chunks keep every promise of a store: exact, addressable, checked, readable by others."""

from __future__ import annotations

import os
import pickle
import random

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stvg.cache.stores import unit as unit_module
from stvg.cache.stores.codecs import pack, unpack
from stvg.cache.stores.contract import Store
from stvg.cache.stores.kinds import open_store
from stvg.cache.stores.unit import CHUNK_BYTES
from stvg.errors import CacheError, UsageError

from .test_store import KEY, counter, files_of, fill, fresh, outcome, same, slow, written

CODECS = {"zarr": "zstd", "hdf5": "gzip"}


@pytest.fixture(params=CODECS)
def backend(request) -> str:
    return request.param


@pytest.fixture
def store(tmp_path, backend) -> Store:
    return open_store(tmp_path / "cache", backend, CODECS[backend])


def sparse(rows: int = 9) -> dict[str, np.ndarray]:
    """Rectified maps with one row to a chunk, tokens with many, and an array without rows."""
    rng = np.random.default_rng(0)
    return {
        "c5": rng.standard_normal((rows, 3, 5, 2200)).clip(0).astype(np.float16),
        "hidden": rng.standard_normal((rows * 200, 96)).astype(np.float32),
        "roi": np.empty((0, 4, 4, 8), np.float16),
    }


@slow
@given(array=written, step=st.integers(1, 50), chunk_bytes=st.sampled_from([1, 16, 100, CHUNK_BYTES]), data=st.data())
def test_a_packed_array_comes_back_exactly_whatever_its_chunks(store, array, step, chunk_bytes, data):
    key = f"videos/{next(counter)}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_module, "CHUNK_BYTES", chunk_bytes)
        fill(store, key, {"x": array}, step=step)
    assert same(store.read(key, "x"), array)
    if len(array):
        rows = np.array(data.draw(st.lists(st.integers(0, len(array) - 1), max_size=60)), dtype=np.int64)
        assert same(store.read(key, "x", rows), array[rows])
    assert store.check(key) == []


def test_a_packed_unit_is_smaller_and_its_bytes_are_those_of_any_other_writer(tmp_path, store, backend):
    plain = open_store(tmp_path / "plain", backend)
    other = open_store(tmp_path / "other", backend, CODECS[backend])
    fill(plain, KEY, sparse())
    fill(store, KEY, sparse(), step=7)
    fill(other, KEY, sparse(), step=2)
    contents = [[path.read_bytes() for path in files_of(s, KEY)] for s in (store, other)]
    assert contents[0] == contents[1]
    assert sum(map(len, contents[0])) < 0.9 * sum(path.stat().st_size for path in files_of(plain, KEY))


def test_units_packed_and_plain_stand_side_by_side(store, backend):
    fill(store, KEY, sparse())
    plain = open_store(store.path, backend)
    fill(plain, "videos/plain", sparse())
    for reader in (plain, store, fresh(store)):
        for key in (KEY, "videos/plain"):
            assert all(same(reader.read(key, name), array) for name, array in sparse().items())
            assert reader.check(key) == []
    assert pickle.loads(pickle.dumps(store)).compression == CODECS[backend]


def test_a_packing_the_formats_readers_do_not_know_is_refused(tmp_path):
    for backend, codec in (("zarr", "gzip"), ("hdf5", "zstd"), ("zarr", "lz4")):
        with pytest.raises(UsageError, match=codec):
            open_store(tmp_path, backend, codec)


# ---- damage is named


def test_no_flipped_bit_of_a_packed_unit_is_ever_returned(store):
    rng = random.Random(7)
    arrays = {"c5": sparse(2)["c5"], "x": np.arange(90, dtype=np.int32).reshape(30, 3)}
    fill(store, KEY, arrays, {"a": 1})
    for path in files_of(store, KEY):
        whole = path.read_bytes()
        ends = [*range(min(len(whole), 700)), *range(max(0, len(whole) - 500), len(whole))]
        for at in rng.sample(sorted(set(ends)), min(len(set(ends)), 80)) + rng.choices(range(len(whole)), k=15):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            told = outcome(fresh(store), arrays, {"a": 1})
            assert told == "exact" or "4kd0uB2X" in told
            assert fresh(store).check(KEY), f"{path.name}, byte {at}"
        path.write_bytes(whole)
    assert outcome(fresh(store), arrays, {"a": 1}) == "exact"


def test_a_damaged_packed_chunk_is_named_and_its_neighbours_stay_readable(store):
    array = sparse()["c5"]
    fill(store, KEY, {"c5": array})
    needle = pack(store.codec, array[3].tobytes())
    path = next(p for p in files_of(store, KEY) if needle in p.read_bytes())
    content = bytearray(path.read_bytes())
    content[content.find(needle) + 50] ^= 4
    path.write_bytes(content)
    damaged = fresh(store)
    with pytest.raises(CacheError, match=r"videos/4kd0uB2X.mp4, array c5: chunk 3 \(rows 3 to 3\).* is damaged"):
        damaged.read(KEY, "c5")
    assert same(damaged.read(KEY, "c5", np.array([2, 4, 8])), array[[2, 4, 8]])
    (problem,) = damaged.check(KEY)
    assert "array c5: chunk 3" in problem


def test_a_packed_unit_cut_short_is_an_error_at_any_length(store):
    arrays = {"c5": sparse(3)["c5"]}
    fill(store, KEY, arrays, {"a": 1})
    for path in files_of(store, KEY):
        whole = path.read_bytes()
        for length in {0, 1, len(whole) // 2, len(whole) - 9, len(whole) - 1}:
            path.write_bytes(whole[:length])
            assert fresh(store).check(KEY), f"{path.name} cut to {length}"
            if path.name != "zarr.json":  # there for other readers only
                assert "4kd0uB2X" in outcome(fresh(store), arrays, {"a": 1}).replace("exact", "")
        path.write_bytes(whole)


def test_a_packed_file_cut_while_it_is_open_is_an_error(store):
    array = sparse(4)["c5"]
    fill(store, KEY, {"c5": array})
    store.read(KEY, "c5")
    path = max(files_of(store, KEY), key=lambda p: p.stat().st_size)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CacheError, match=r"4kd0uB2X.mp4, array c5: chunk .* cut off"):
        store.read(KEY, "c5", np.array([3]))


@pytest.mark.parametrize("codec", ["zstd", "gzip"])
def test_a_chunk_of_another_size_or_kind_is_not_unpacked(codec):
    target = memoryview(bytearray(1000))
    for packed in (pack(codec, bytes(999)), pack(codec, bytes(1001)), b"no such thing", b""):
        with pytest.raises(ValueError):
            unpack(codec, np.frombuffer(packed, np.uint8), target)
    unpack(codec, np.frombuffer(pack(codec, b"\7" * 1000), np.uint8), target)
    assert bytes(target) == b"\7" * 1000


# ---- what other programs see


def test_zarr_and_h5py_unpack_what_we_pack(store, backend):
    import zarr

    arrays = {**sparse(), "narrow": np.arange(210_000, dtype=np.uint8).reshape(70_000, 3)}
    fill(store, KEY, arrays, {"frames": [3, 5]})
    if backend == "zarr":
        group = zarr.open_group(store.place(KEY), mode="r")
        assert all(same(group[name][:], array) for name, array in arrays.items())
    else:
        with h5py.File(store.place(KEY)) as file:
            assert all(same(file[name][:], array) for name, array in arrays.items())
