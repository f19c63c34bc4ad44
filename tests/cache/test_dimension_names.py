"""Every stored Zarr array names its dimensions, so that xarray opens a unit: equal names have equal lengths."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr

from stvg.cache.stores.kinds import open_store
from stvg.cache.stores.unit import ROWS, ArrayFacts
from stvg.cache.stores.zarr_store import RECORD, array_document, dimension_names

ARRAYS = {
    "fine": ((6, 8, 11, 34), "frame"),
    "coarse": ((6, 4, 5, 92), "frame"),
    "coarse_affine": ((2, 2, 92), None),
    "view1_coarse": ((6, 3, 4, 92), "frame"),
    "fine_roi": ((0, 16, 34), "region"),
    "view1_fine_roi": ((0, 16, 34), "region"),
    "coarse_sums": ((2, 92), None),
    "hidden": ((9, 64), "token"),
    "anything": ((3,), None),
}


def write(path, key="videos/v"):
    store = open_store(path, "zarr")
    with store.writer(key) as unit:
        for name, (shape, rows) in ARRAYS.items():
            unit.add(name, shape, np.float32, {ROWS: rows} if rows else {})
            unit.append(name, np.ones(shape, np.float32))
        unit.commit({"frames": [1]})
    return store


def names_of(name: str) -> list[str]:
    shape, rows = ARRAYS[name]
    return dimension_names(name, ArrayFacts.of(shape, np.float32, {ROWS: rows} if rows else {}))


def test_names_say_what_an_axis_is_whatever_the_array_is_called():
    assert names_of("coarse") == ["frame", "coarse_y", "coarse_x", "coarse_channel"]
    assert names_of("view1_fine_roi") == ["region", "view1_fine_roi_cell", "view1_fine_roi_channel"]
    assert names_of("hidden") == ["token", "hidden_channel"]
    assert names_of("coarse_affine") == ["coarse_affine_0", "coarse_affine_1", "coarse_affine_2"]


def test_equal_names_mean_equal_lengths_and_an_array_repeats_none(tmp_path):
    store = write(tmp_path)
    lengths: dict[str, int] = {}
    group = zarr.open_group(store.place("videos/v"), mode="r")
    for name, (shape, _) in ARRAYS.items():
        names = group[name].metadata.dimension_names
        assert len(set(names)) == len(shape)
        for axis, length in zip(names, shape, strict=True):
            assert lengths.setdefault(axis, length) == length
    assert store.check("videos/v") == []


@pytest.mark.parametrize("kind", ["float16", "float32", "uint8", "bool", "int64"])
@pytest.mark.parametrize("shape", [(5, 2), (0, 3), (40_000, 7, 3)])
def test_a_document_is_what_the_library_writes_for_such_an_array(kind, shape, tmp_path):
    facts = ArrayFacts.of(shape, kind, {"rows": "frame"})
    zarr.create_array(
        str(tmp_path),
        shape=facts.shape,
        dtype=facts.dtype,
        chunks=(facts.rows_per_chunk, *facts.shape[1:]),
        shards=(max(1, facts.chunks) * facts.rows_per_chunk, *facts.shape[1:]),
        filters=None,
        compressors=None,
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes={"rows": "frame"},
        dimension_names=dimension_names("x", facts),
    )
    assert json.loads(array_document("x", facts)) == json.loads((tmp_path / "zarr.json").read_text())


def test_names_that_are_not_ours_are_damage(tmp_path):
    store = write(tmp_path)
    file = store.place("videos/v") / "coarse" / "zarr.json"
    file.write_bytes(file.read_bytes().replace(b'"frame"', b'"fRame"'))
    assert store.check("videos/v") == ["videos/v: coarse/zarr.json is damaged"]
    assert (store.place("videos/v") / RECORD).is_file()
