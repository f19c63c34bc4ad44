"""Creation of a cache: one of several extractors writes the header."""

from __future__ import annotations

from ..atomic import TEMPORARY, make_folder, write_once
from ..errors import CacheError
from ..objects import HEADER, Location
from .header import Header
from .schema import Recipe
from .set_files import FOLDER
from .stores.kinds import kinds_of, open_store
from .video_unit import MORE, ROOM

OWN = {HEADER, FOLDER, ROOM, MORE, "text"}
"""Names in a cache folder. A folder that has one of them but no header is a cache with a lost header."""


def make(path: Location, header: Header) -> bool:
    """Write the header of a new cache. Returns False if another process wrote one first."""
    require_room(path, header.recipe, header.store)
    open_store(path, header.store)  # raises UsageError if the location does not support this store
    make_folder(path)
    return write_once(path / HEADER, header.to_bytes())


def require_room(path: Location, recipe: Recipe, store: str) -> None:
    """Raise CacheError unless the folder is empty or holds, without a header, units of this recipe and store."""
    found_names = (entry.name for entry in path.iterdir()) if path.is_dir() else ()
    # Temporary files are ignored: several extractors may start at the same time.
    present = {name for name in found_names if not name.startswith(TEMPORARY)}
    if present and not present & OWN:
        raise CacheError(f"{path} is not empty and not a cache", hint="choose another --out folder")
    for kind in kinds_of(path) if ROOM in present else ():
        units = open_store(path, kind)
        for key in units.keys(ROOM)[:1]:
            found = {"store": kind, "fingerprint": units.attributes(key)["fingerprint"]}
            if found != {"store": store, "fingerprint": recipe.fingerprint}:
                raise CacheError(
                    f"{path} has no {HEADER}, but units of another cache",
                    expected=f"store {store}, fingerprint {recipe.fingerprint}",
                    found=f"store {found['store']}, fingerprint {found['fingerprint']}",
                    effect="nothing was written",
                    hint="use the options they were made with, or another --out folder",
                )
