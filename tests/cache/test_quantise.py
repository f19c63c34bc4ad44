"""What a stored dtype costs: exact where it can be, half a step where not; plain readers see all of it; damage is named."""

from __future__ import annotations

import contextlib
import pickle

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from stvg.cache.kept import DTYPES
from stvg.cache.stores import quantise as module
from stvg.cache.stores.contract import Store
from stvg.cache.stores.kinds import open_store
from stvg.cache.stores.quantise import (
    AFFINE,
    READ,
    STORED,
    FeatureWriter,
    block_rows,
    dequantise,
    quantise,
    read_features,
)
from stvg.errors import CacheError

KEY = "videos/4kd0uB2X.mp4"
LIMIT = 65000.0
slow = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
values = st.floats(-LIMIT, LIMIT, width=32, allow_subnormal=True)
blocks = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5)).flatmap(
    lambda shape: arrays_of.arrays(np.float32, shape, elements=values)
)
counter = iter(range(10**9))


@pytest.fixture(params=["zarr", "hdf5"])
def store(tmp_path, request) -> Store:
    return open_store(tmp_path / "cache", request.param)


def fill(store: Store, key: str, dtype: str, arrays: dict[str, np.ndarray], step: int = 3) -> None:
    with store.writer(key) as unit:
        writer = FeatureWriter(unit, dtype)
        for name, array in arrays.items():
            writer.add(name, array.shape, "frame")
            for at in range(0, len(array), step):
                writer.append(name, array[at : at + step], f"{name} of {key}")
        unit.commit({})


def decoded(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One block there and back, and its scales."""
    q, affine = quantise(array)
    out = torch.empty(array.shape)
    dequantise(q, affine[None], np.zeros(len(array), np.int64), out)
    return out.numpy(), affine[0]


# ---- how far off


@slow
@given(blocks)
def test_a_quantised_value_is_off_by_at_most_half_a_step_of_its_channel(array):
    out, scale = decoded(array)
    rounding = np.abs(array).max((0, 1)) * 2.0**-22
    assert (np.abs(out.astype(np.float64) - array) <= scale / 2 * (1 + 1e-4) + rounding).all()
    step = (array.max((0, 1)).astype(np.float64) - array.min((0, 1))) / 255
    assert (scale <= np.maximum(step, module.SMALLEST) * (1 + 2.0**-14)).all()


@slow
@given(blocks, st.data())
def test_zeros_and_channels_of_one_value_are_exact(array, data):
    array[..., 0] = data.draw(values)
    hole = data.draw(arrays_of.arrays(bool, array.shape))
    hole[..., 0] = False
    array[hole] = 0
    out, scale = decoded(array)
    assert (out[hole] == 0).all()
    assert (out[..., 0] == array[0, 0, 0]).all()
    assert scale[0] == 0


@pytest.mark.parametrize(
    "ends", [(-LIMIT, LIMIT), (0, 1e-45), (1e-45, 3e-45), (-1e-38, 1e-38), (1000, 1000.1), (-3, 0), (-5, -1e-9)]
)
def test_extreme_ranges_keep_their_bound(ends):
    array = np.linspace(*ends, 600, dtype=np.float32).reshape(-1, 1)
    out, scale = decoded(array)
    assert np.isfinite(out).all()
    assert np.abs(out.astype(np.float64) - array).max() <= scale[0] / 2 * (1 + 1e-4) + max(map(abs, ends)) * 2.0**-23


@slow
@given(blocks)
def test_fused_and_separate_arithmetic_decode_to_the_same_bits(array):
    q, (scale, offset) = quantise(array)
    fused = (q.astype(np.float64) * scale + offset).astype(np.float32)  # the product is exact; one rounding
    assert (fused == decoded(array)[0]).all()


@slow
@given(
    array=st.integers(0, 30).flatmap(lambda n: arrays_of.arrays(np.float32, (n, 2, 3), elements=values)),
    dtype=st.sampled_from(DTYPES),
    step=st.integers(1, 30),
    cells=st.sampled_from([1, 5, 8, 512]),
    data=st.data(),
)
def test_what_is_read_is_what_was_written_within_the_dtypes_precision(store, array, dtype, step, cells, data):
    key = f"videos/{next(counter)}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_CELLS", cells)
        fill(store, key, dtype, {"c5": array}, step)
        per = block_rows(array.shape)
    rows = np.array(data.draw(st.lists(st.integers(0, len(array) - 1), max_size=20)) if len(array) else [], np.int64)
    read, some = read_features(store, key, "c5"), read_features(store, key, "c5", rows)
    assert read.dtype == some.dtype == READ[dtype]
    assert torch.equal(some, read[torch.from_numpy(rows)])
    assert torch.equal(read_features(store, key, "c5", slice(1, None, 2)), read[1::2])
    if dtype == "uint8":
        exact = [decoded(array[at : at + per])[0].astype(np.float16) for at in range(0, len(array), per)]
        assert np.array_equal(read.numpy(), np.concatenate(exact)) if exact else not len(read)
    else:
        assert torch.equal(read, torch.from_numpy(array).to(READ[dtype]))
    assert store.check(key) == []


def test_rows_are_read_into_the_callers_memory(store):
    array = np.random.default_rng(0).standard_normal((20, 4, 6, 96)).astype(np.float32)
    for dtype in DTYPES:
        fill(store, f"videos/{dtype}", dtype, {"c5": array})
        out = torch.full((30, 4, 6, 96), 7, dtype=READ[dtype])
        rows = np.array([19, 0, 3, 3, 8])
        assert read_features(store, f"videos/{dtype}", "c5", rows, out[10:15]).data_ptr() == out[10:15].data_ptr()
        assert torch.equal(out[10:15], read_features(store, f"videos/{dtype}", "c5", rows))
        assert (out[:10] == 7).all()
        assert (out[15:] == 7).all()


def test_blocks_hold_about_as_many_values_of_every_channel_whatever_a_row_is():
    assert block_rows((9, 27, 47, 512)) == 1  # a C3 map
    assert block_rows((9, 7, 12, 2048)) == 7  # a C5 map
    assert block_rows((9, 16, 1536)) == 32  # a region
    assert block_rows((9, 768)) == 512  # a token


# ---- what does not fit


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("float16", 7e4), ("uint8", 65001), ("bfloat16", 3.4e38), *((d, v) for d in DTYPES for v in (np.nan, np.inf))],
)
def test_a_value_that_does_not_fit_is_an_error_and_nothing_is_stored(store, dtype, value):
    array = np.zeros((4, 2, 3), np.float32)
    array[3, 1, 2] = value
    with pytest.raises(CacheError, match=f"c5 of {KEY} do not fit {dtype}"):
        fill(store, KEY, dtype, {"c5": array})
    assert not store.contains(KEY)
    array[3, 1, 2] = -LIMIT
    fill(store, KEY, dtype, {"c5": array})


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_were_not_declared_are_refused_and_missing_ones_are_noticed(store, dtype):
    def store_of_nine(rows: int) -> None:
        with store.writer(KEY) as unit:
            writer = FeatureWriter(unit, dtype)
            writer.add("c5", (9, 2, 3), "frame")
            writer.append("c5", np.ones((rows, 2, 3), np.float32), "c5")
            unit.commit({})

    with pytest.raises(ValueError, match="9 rows declared, 10 given"):
        store_of_nine(10)
    with pytest.raises(CacheError, match="lacks"):
        store_of_nine(8)
    assert not store.contains(KEY)


def test_an_encoding_of_a_later_release_is_refused_not_read_as_values(store):
    with store.writer(KEY) as unit:
        unit.add("c5", (2, 3), "u1", {"encoding": "int4"})
        unit.append("c5", np.ones((2, 3), "u1"))
        unit.commit({})
    with pytest.raises(CacheError, match="does not support"):
        read_features(store, KEY, "c5")


# ---- damage


@pytest.mark.parametrize("victim", ["c5", "c5" + AFFINE])
def test_a_flipped_bit_in_bytes_or_scales_is_found_and_never_decoded(store, victim):
    array = np.random.default_rng(1).standard_normal((9, 40, 64)).astype(np.float32)
    fill(store, KEY, "uint8", {"c5": array})
    needle = store.read(KEY, victim)[0].tobytes()[:64]
    place = store.place(KEY)
    for path in [place] if place.is_file() else place.rglob("c.*"):
        content = bytearray(path.read_bytes())
        if (at := content.find(needle)) >= 0:
            content[at + 9] ^= 1
            path.write_bytes(content)
    damaged = pickle.loads(pickle.dumps(store))
    (problem,) = damaged.check(KEY)
    assert f"array {victim}: chunk 0" in problem
    with pytest.raises(CacheError, match=f"array {victim}: chunk 0"):
        read_features(damaged, KEY, "c5")


def test_an_encoding_other_readers_are_told_wrongly_is_found(store):
    fill(store, KEY, "bfloat16", {"c5": np.ones((2, 3, 4), np.float32)})
    place = store.place(KEY)
    if place.is_file():
        with h5py.File(place, "a") as file:
            file["c5"].attrs["encoding"] = "bfloat17"
    else:
        path = place / "c5" / "zarr.json"
        path.write_text(path.read_text().replace("bfloat16", "bfloat17"))
    (problem,) = store.check(KEY)
    assert "c5" in problem
    assert (read_features(store, KEY, "c5") == 1).all()  # ours asks the record


# ---- what other programs see


def plain_decode(stored: np.ndarray, attributes: dict, affine: np.ndarray | None) -> np.ndarray:
    """As docs/cache.md tells everybody to."""
    if attributes.get("encoding") == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    if attributes.get("encoding") == "affine":
        per_row = affine[np.arange(len(stored)) // attributes["rows_per_block"]]
        scale, offset = (per_row[:, i].reshape(len(stored), *[1] * (stored.ndim - 2), -1) for i in (0, 1))
        return stored * scale + offset
    return stored


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["zarr", "hdf5"])
def test_zarr_and_h5py_decode_a_unit_as_the_docs_say(tmp_path, backend, dtype):
    import zarr

    store = open_store(tmp_path, backend)
    array = np.random.default_rng(2).standard_normal((19, 5, 7, 96)).astype(np.float32)
    fill(store, KEY, dtype, {"c5": array})
    place = store.place(KEY)
    with contextlib.nullcontext(zarr.open_group(place, mode="r")) if backend == "zarr" else h5py.File(place) as group:
        stored, attributes = group["c5"][:], {k: v for k, v in group["c5"].attrs.items() if not k.startswith("_")}
        affine = group["c5" + AFFINE][:] if dtype == "uint8" else None
    found = torch.from_numpy(plain_decode(stored, attributes, affine)).to(READ[dtype])
    assert torch.equal(found.float(), read_features(store, KEY, "c5").float())
    assert attributes == store.arrays(KEY)["c5"].attributes


def test_every_type_that_can_be_asked_for_can_be_stored_and_read():
    assert set(DTYPES) == set(STORED) == set(READ)
