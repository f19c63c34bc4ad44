"""How features are stored: exact, in half the bytes, or as bytes with a scale; and how they become tensors again.

    float32, float16   as they are
    bfloat16           its 16 bits as uint16, which every reader of Zarr and HDF5 knows; numpy has no such type
    uint8              offset + scale · q, with a scale and an offset for every channel and block of rows, kept beside the
                       bytes: an array (rows, …, C) uint8, and beside it ``…_affine`` (blocks, 2, C) float32

Every array says in its attributes how it is to be read, so other programs need nothing else. Quantised values are read as
float16, which rounds away less than the half step they are off by.

A block holds about `BLOCK_CELLS` values of each channel, whatever a row is: a frame's map, a region or a token. So the
scales cost under two per cent, and which rows share one depends on their numbers alone, not on how they were handed in.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import CacheError
from ..sampling import IntArray
from .contract import Store
from .unit import ROWS, UnitWriter

BLOCK_CELLS = 512
AFFINE = "_affine"
SMALLEST = np.finfo(np.float32).smallest_normal
STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "uint8": np.uint8}
READ = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "uint8": torch.float16}
"""What a tensor of features has for its type, by the dtype of the cache."""
LARGEST = {
    "float32": float(np.finfo(np.float32).max),
    "float16": float(np.finfo(np.float16).max),
    "bfloat16": float(torch.finfo(torch.bfloat16).max),
    "uint8": 65000.0,  # half a step more is still a float16
}
"""Magnitude above which a value is refused."""


class FeatureWriter:
    """Writes float32 features into a unit in the dtype of the cache. Memory: one block of rows per array."""

    def __init__(self, unit: UnitWriter, dtype: str) -> None:
        self.unit, self._dtype = unit, dtype
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._written: dict[str, int] = {}
        self._waiting: dict[str, list[NDArray[np.float32]]] = {}

    def add(self, name: str, shape: tuple[int, ...], rows: str) -> None:
        """Declare an array of ``shape[0]`` rows, channels last. ``rows``: what one is, such as a ``frame``."""
        self._shapes[name], self._written[name], self._waiting[name] = shape, 0, []
        self.unit.add(name, shape, STORED[self._dtype], {ROWS: rows, **_attributes(self._dtype, shape)})
        if self._dtype == "uint8":
            self.unit.add(name + AFFINE, (-(-shape[0] // block_rows(shape)), 2, shape[-1]), np.float32)

    def append(self, name: str, values: NDArray[np.float32], what: str) -> None:
        """Write the next rows, (any count, *shape[1:]).

        Raises CacheError, naming ``what`` they are, when a value is not finite or does not fit, ValueError for rows that
        were not declared.
        """
        _require_fit(values, self._dtype, what)
        if self._dtype == "bfloat16":
            rounded = torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16)
            self.unit.append(name, rounded.view(torch.uint16).numpy())
        elif self._dtype == "uint8":
            self._append_quantised(name, values)
        else:
            self.unit.append(name, values.astype(STORED[self._dtype], copy=False))

    def _append_quantised(self, name: str, values: NDArray[np.float32]) -> None:
        rows, per = self._shapes[name][0], block_rows(self._shapes[name])
        waiting = self._waiting[name]
        if (given := self._written[name] + sum(map(len, waiting)) + len(values)) > rows:
            raise ValueError(f"{name}: {rows} rows declared, {given} given")
        while len(values):
            wanted = min(per, rows - self._written[name]) - sum(map(len, waiting))
            waiting.append(values[:wanted].copy())
            if len(values) < wanted:
                return
            values = values[wanted:]
            block, affine = quantise(np.concatenate(waiting))
            waiting.clear()
            self.unit.append(name, block)
            self.unit.append(name + AFFINE, affine[None])
            self._written[name] += len(block)


def stored_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """What an array of features takes, its scales included, without checksums."""
    affine = -(-shape[0] // block_rows(shape)) * 2 * shape[-1] * 4 if dtype == "uint8" else 0
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(STORED[dtype]).itemsize + affine


def block_rows(shape: tuple[int, ...]) -> int:
    """Rows of an array (rows, …, C) that share their scales."""
    return -(-BLOCK_CELLS // int(np.prod(shape[1:-1], dtype=np.int64)))


def quantise(values: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Values (…, C) as bytes of the same shape, and the scale and offset of every channel (2, C).

    Each value is off by at most half a scale, and what float32 rounds. Zeros are exact, and so are channels of one value:
    where a channel's range holds zero, the offset is a whole number of scales. Scales have 16 significant bits, so that
    scale · q is exact in float32, and decoding gives the same bits however it is computed.
    """
    cells = values.reshape(-1, values.shape[-1])
    low, high = cells.min(0), cells.max(0)
    scale = np.where(high > low, np.maximum((high - low) / np.float32(255), SMALLEST), np.float32(0))
    scale = ((scale.view(np.uint32) + np.uint32(255)) & ~np.uint32(255)).view(np.float32)  # up: the range still fits
    step = np.where(scale > 0, scale, np.float32(1))
    across = (low < 0) & (high >= 0)
    offset = np.where(across, np.rint(low / step) * scale, low)
    q = np.rint((cells - offset) / step).clip(0, 255).astype(np.uint8)
    return q.reshape(values.shape), np.stack([scale, offset])


def dequantise(stored: NDArray[np.uint8], affine: NDArray[np.float32], blocks: IntArray, out: Tensor) -> None:
    """Fill ``out`` (n, …, C) with bytes (n, …, C) whose scales are ``affine[blocks]``: (b, 2, C) and (n,)."""
    q, scales = torch.from_numpy(stored), torch.from_numpy(affine)
    for start, end in pairwise(np.flatnonzero(np.diff(blocks, prepend=-1, append=-1)).tolist()):
        scale, offset = scales[blocks[start]]
        out[start:end].copy_(q[start:end].float().mul_(scale).add_(offset))


def read_features(
    store: Store, key: str, name: str, rows: IntArray | slice | None = None, out: Tensor | None = None
) -> Tensor:
    """Rows of an array as a tensor (n, …, C) of the type its dtype is read as; see `Store.read` for rows and errors.

    ``out``: of exactly that shape and type, its last axis without gaps; filled and returned.
    """
    facts = store.arrays(key).get(name)
    encoding = facts.attributes.get("encoding") if facts else None
    if encoding == "affine":
        return _read_quantised(store, key, name, rows, out)
    if encoding == "bfloat16":
        target = None if out is None else out.view(torch.uint16).numpy()
        return torch.from_numpy(store.read(key, name, rows, target)).view(torch.bfloat16)
    if encoding is None:
        return torch.from_numpy(store.read(key, name, rows, None if out is None else out.numpy()))
    raise CacheError(
        f"{store.path}: {key}, array {name} is stored in a way this release does not know",
        expected="encoding affine or bfloat16, or none",
        found=encoding,
        hint="use the release of stvg that wrote it",
    )


def _read_quantised(store: Store, key: str, name: str, rows: IntArray | slice | None, out: Tensor | None) -> Tensor:
    facts = store.arrays(key)[name]
    stored = store.read(key, name, rows)
    numbers = np.arange(facts.shape[0])[slice(None) if rows is None else rows]
    wanted, blocks = np.unique(numbers // facts.attributes["rows_per_block"], return_inverse=True)
    out = torch.empty(stored.shape, dtype=READ["uint8"]) if out is None else out
    dequantise(stored, store.read(key, name + AFFINE, wanted), blocks, out)
    return out


def _attributes(dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """What an array says of its encoding; nothing where values stand as they are."""
    if dtype == "bfloat16":
        return {"encoding": "bfloat16"}
    if dtype == "uint8":
        return {"encoding": "affine", "rows_per_block": block_rows(shape)}
    return {}


def _require_fit(values: NDArray[np.float32], dtype: str, what: str) -> None:
    largest = LARGEST[dtype]
    peak = float(np.abs(values).max(initial=0.0))  # nan and inf survive max
    if not peak <= largest:
        raise CacheError(
            f"{what} do not fit {dtype}",
            expected=f"finite values up to {largest:g}",
            found=f"{peak:g}",
            effect="this unit was not written",
            hint="--dtype float32, or check the encoder's weights",
        )
