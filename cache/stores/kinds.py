"""The kinds of stores: a row a kind, and the one place that opens them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from ...errors import CacheError, UsageError
from ...objects import Location

if TYPE_CHECKING:
    from .contract import Store


@dataclass(frozen=True)
class StoreKind:
    """The classes of a kind, ``package.module:Class``, loaded when they are needed."""

    local: str
    remote: str | None = None
    """In object storage; None: not there."""


STORES = {
    "zarr": StoreKind("stvg.cache.stores.zarr_store:ZarrStore", "stvg.cache.stores.remote_store:RemoteStore"),
    "hdf5": StoreKind("stvg.cache.stores.hdf5_store:Hdf5Store"),
}


def kinds_of(path: Location) -> tuple[str, ...]:
    """The stores a place can hold."""
    return tuple(name for name, kind in STORES.items() if isinstance(path, Path) or kind.remote)


def open_store(path: Location, name: str | None = None) -> Store:
    """The store of a cache: a row of `STORES`, or None for the one its units are in.

    Raises UsageError for another name, CacheError when None and the folder holds no units, or units of both.
    """
    if name is None:
        rooms = ("videos", "more", "text")
        present = [kind for kind in kinds_of(path) if any(open_store(path, kind).keys(room) for room in rooms)]
        if len(present) != 1:
            found = " and ".join(present) or "no units"
            raise CacheError(f"{path}: cannot tell its store", expected="units of one kind", found=found)
        name = present[0]
    if name not in STORES:
        raise UsageError(f"there is no store {name!r}", expected=", ".join(STORES))
    kind = STORES[name].local if isinstance(path, Path) else STORES[name].remote
    if kind is None:
        raise UsageError(f"{path}: object storage cannot hold {name} units", hint="--store zarr")
    store: Store = resolve_name(kind)(path)
    return store
