"""cache.json: the recipe, store and library versions of a cache, with a checksum."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from awscrt.checksums import crc32c

from ..errors import CacheError
from .schema import Recipe

FORMAT = "stvg feature cache"


@dataclass(frozen=True)
class Header:
    """The contents of cache.json."""

    recipe: Recipe
    store: str
    versions: dict[str, str]

    def to_bytes(self) -> bytes:
        content = {"format": FORMAT, "fingerprint": self.recipe.fingerprint, **asdict(self)}
        checked = {"crc32c": crc32c(_render(content)), **json.loads(_render(content))}
        return _render(checked) + b"\n"

    @classmethod
    def from_bytes(cls, stored: bytes, where: object) -> Header:
        """Raises CacheError if the file is damaged or has another format version."""
        try:
            content: dict[str, Any] = json.loads(stored)
            recipe = Recipe.from_json(content["recipe"])
            header = cls(recipe, content["store"], content["versions"])
            if header.to_bytes() != stored:
                raise ValueError("its checksum does not match")
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise CacheError(
                f"{where} is damaged", found=error, hint="restore the file, or: stvg cache verify --repair"
            ) from None
        return header


def _render(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode()
