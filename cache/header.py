"""cache.json: how a cache was made, guarded by a checksum, and the checksum of its samples."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from awscrt.checksums import crc32c

from ..errors import CacheError
from .schema import Recipe

SAMPLES = "samples.parquet"
FORMAT = "stvg feature cache"


@dataclass(frozen=True)
class Header:
    """What cache.json says. ``samples_file``: (bytes, crc32c) of samples.parquet."""

    recipe: Recipe
    store: str
    counts: dict[str, int]
    versions: dict[str, str]
    samples_file: tuple[int, int]
    admitted_by: dict[str, Any] | None = None
    """The options that chose the samples: splits, max_frames, … None in older caches."""

    def to_bytes(self) -> bytes:
        content = {"format": FORMAT, "fingerprint": self.recipe.fingerprint, **asdict(self)}
        if self.admitted_by is None:
            del content["admitted_by"]
        checked = {"crc32c": crc32c(_render(content)), **json.loads(_render(content))}
        return _render(checked) + b"\n"

    @classmethod
    def from_bytes(cls, stored: bytes, where: object) -> Header:
        """Raises CacheError when a byte is not as it was written, or the format is another release's."""
        try:
            content: dict[str, Any] = json.loads(stored)
            recipe = Recipe.from_json(content["recipe"])
            samples_file = (content["samples_file"][0], content["samples_file"][1])
            how = (content["store"], content["counts"], content["versions"])
            header = cls(recipe, *how, samples_file, content.get("admitted_by"))
            if header.to_bytes() != stored:
                raise ValueError("its checksum does not fit")
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise CacheError(
                f"{where} is damaged", found=error, hint="restore the file, or: stvg cache verify --repair"
            ) from None
        return header


def _render(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode()
