"""The table of store kinds, and the function that opens a store."""

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
    """The classes of a kind as ``package.module:Class``, imported when a store is opened."""

    local: str
    remote: str | None = None
    """The class for object storage; None if the kind does not support it."""


STORES = {
    "zarr": StoreKind("stvg.cache.stores.zarr_store:ZarrStore", "stvg.cache.stores.remote_store:RemoteStore"),
    "hdf5": StoreKind("stvg.cache.stores.hdf5_store:Hdf5Store"),
}


def kinds_of(path: Location) -> tuple[str, ...]:
    """Names of the store kinds that a location supports."""
    return tuple(name for name, kind in STORES.items() if isinstance(path, Path) or kind.remote)


def open_store(path: Location, name: str | None = None) -> Store:
    """Open the store of a cache. ``name``: a key of `STORES`; None detects the kind from the stored units.

    Raises UsageError for an unknown name. With None, raises CacheError if there are no units or units of several kinds.
    """
    if name is None:
        rooms = ("videos", "more", "text")
        present = [kind for kind in kinds_of(path) if any(open_store(path, kind).keys(room) for room in rooms)]
        if len(present) != 1:
            found = " and ".join(present) or "no units"
            raise CacheError(f"{path}: its store cannot be determined", expected="units of one kind", found=found)
        name = present[0]
    if name not in STORES:
        raise UsageError(f"there is no store {name!r}", expected=", ".join(STORES))
    kind = STORES[name].local if isinstance(path, Path) else STORES[name].remote
    if kind is None:
        raise UsageError(f"{path}: object storage cannot hold {name} units", hint="--store zarr")
    store: Store = resolve_name(kind)(path)
    return store
