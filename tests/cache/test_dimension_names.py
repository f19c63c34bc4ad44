"""Every stored Zarr array names its dimensions, so that xarray opens a unit: equal names have equal lengths."""

from __future__ import annotations

import numpy as np
import pytest

from stvg.cache.stores.kinds import open_store
from stvg.cache.stores.zarr_store import RECORD, dimension_names

ARRAYS = {
    "c3": (6, 8, 11, 34),
    "c5": (6, 4, 5, 92),
    "c5_affine": (2, 2, 92),
    "view1_c5": (6, 3, 4, 92),
    "roi": (0, 16, 84),
    "view1_roi": (0, 16, 84),
    "hidden": (9, 64),
    "c4": (7, 2),
    "anything": (3,),
}


def write(path, key="videos/v"):
    store = open_store(path, "zarr")
    with store.writer(key) as unit:
        for name, shape in ARRAYS.items():
            unit.add(name, shape, np.float32)
            unit.append(name, np.ones(shape, np.float32))
        unit.commit({"frames": [1]})
    return store


def test_names_say_what_an_axis_is():
    assert dimension_names("c5", 4) == ["frame", "c5_y", "c5_x", "c5_channel"]
    assert dimension_names("view2_roi", 3) == ["region", "view2_roi_cell", "view2_roi_channel"]
    assert dimension_names("hidden", 2) == ["token", "hidden_channel"]
    assert dimension_names("c5_affine", 3) == ["c5_affine_0", "c5_affine_1", "c5_affine_2"]


def test_equal_names_mean_equal_lengths_and_an_array_repeats_none(tmp_path):
    zarr = pytest.importorskip("zarr")
    store = write(tmp_path)
    lengths: dict[str, int] = {}
    group = zarr.open_group(store.place("videos/v"), mode="r")
    for name, shape in ARRAYS.items():
        names = group[name].metadata.dimension_names
        assert len(set(names)) == len(shape)
        if name != "c4":  # a unit of ours has as many rows of every level
            for axis, length in zip(names, shape, strict=True):
                assert lengths.setdefault(axis, length) == length
    assert store.check("videos/v") == []


def test_names_that_are_not_ours_are_damage(tmp_path):
    store = write(tmp_path)
    file = store.place("videos/v") / "c5" / "zarr.json"
    file.write_bytes(file.read_bytes().replace(b'"frame"', b'"fRame"'))
    assert store.check("videos/v") == ["videos/v: c5/zarr.json is damaged"]
    assert (store.place("videos/v") / RECORD).is_file()
