"""What packs a chunk for cold storage: Zarr's ``zstd`` codec, HDF5's ``gzip`` filter. The same values, the same bytes."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 1
"""Of both. Higher levels take longer to write and save hardly more; see docs/cache.md."""


def pack(compression: str, chunk: bytes) -> bytes:
    if compression == "gzip":
        return zlib.compress(chunk, LEVEL)  # the filter's name in HDF5; its format is zlib's
    return bytes(_zstd().encode(chunk))


def unpack(compression: str, packed: NDArray[np.uint8], target: memoryview) -> None:
    """Fill ``target`` (chunk bytes,). Raises ValueError for what is not a packed chunk of exactly this size."""
    try:
        # Into memory of its own: a chunk too short would leave the rest of the target as it was, unnoticed.
        chunk = _zstd().decode(packed) if compression == "zstd" else zlib.decompress(packed.data, bufsize=len(target))
    except (RuntimeError, zlib.error) as error:
        raise ValueError(str(error)) from None
    if len(chunk) != len(target):
        raise ValueError(f"{len(chunk)} bytes instead of {len(target)}")
    target[:] = memoryview(chunk).cast("B")


def _zstd() -> Any:
    from numcodecs.zstd import Zstd  # loads in 0.4 s, and only packed caches need it

    return Zstd(LEVEL)
