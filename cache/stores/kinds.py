"""The kinds of stores: a row a kind, and the one place that opens them."""

from __future__ import annotations

from pathlib import Path

from ...errors import CacheError, UsageError
from ...objects import Location, ObjectPath
from .contract import Store

BACKENDS = ("zarr", "hdf5")


def backends_of(path: Location) -> tuple[str, ...]:
    """The backends a place can hold: object storage holds Zarr only."""
    return BACKENDS if isinstance(path, Path) else ("zarr",)


def open_store(path: Location, backend: str | None = None) -> Store:
    """The store of a cache: ``zarr``, ``hdf5``, or None for the one its units are in. Object storage holds Zarr.

    Raises UsageError for another name, CacheError when None and the folder holds no units, or units of both.
    """
    if backend is None:
        rooms = ("videos", "text")
        present = [name for name in backends_of(path) if any(open_store(path, name).keys(room) for room in rooms)]
        if len(present) != 1:
            found = " and ".join(present) or "no units"
            raise CacheError(f"{path}: cannot tell its store", expected="units of one kind", found=found)
        backend = present[0]
    if backend not in BACKENDS:
        raise UsageError(f"there is no store {backend!r}", expected=", ".join(BACKENDS))
    if backend not in backends_of(path):
        raise UsageError(f"{path}: object storage cannot hold {backend} units", hint="--store zarr")
    if isinstance(path, ObjectPath):
        from .remote_store import RemoteStore

        return RemoteStore(path)
    return _store_kind(backend)(path)


def _store_kind(backend: str) -> type[Store]:
    if backend == "zarr":
        from .zarr_store import ZarrStore

        return ZarrStore
    from .hdf5_store import Hdf5Store

    return Hdf5Store
