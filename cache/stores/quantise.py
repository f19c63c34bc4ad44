"""Encoding of stored features by the dtype of the cache, and decoding into tensors.

    float32, float16   stored directly
    bfloat16           its 16 bits as uint16, which every reader of Zarr and HDF5 supports; NumPy has no bfloat16
    uint8              value = offset + scale · q, with one scale and offset for every channel and block of rows:
                       an array (rows, …, C) uint8, and a second array ``…_affine`` (blocks, 2, C) float32

The attributes of every array state its encoding, so other programs can decode it. Quantised values are read as float16.
The rounding to float16 is smaller than the quantisation error of half a step.

A block holds about `BLOCK_CELLS` values of each channel, for any kind of row: a frame's map, a region or a token. So
the scales take less than two per cent of the bytes. A row's number alone decides its block, not the size of the
appends.
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
"""Type of the tensors that are read, by the dtype of the cache."""
LARGEST = {
    "float32": float(np.finfo(np.float32).max),
    "float16": float(np.finfo(np.float16).max),
    "bfloat16": float(torch.finfo(torch.bfloat16).max),
    "uint8": 65000.0,  # plus half a step, it still fits float16
}
"""Largest magnitude that can be stored, by dtype."""


class FeatureWriter:
    """Writes float32 features into a unit in the dtype of the cache. Buffers at most one block of rows per array."""

    def __init__(self, unit: UnitWriter, dtype: str) -> None:
        self.unit, self._dtype = unit, dtype
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._written: dict[str, int] = {}
        self._waiting: dict[str, list[NDArray[np.float32]]] = {}

    def add(self, name: str, shape: tuple[int, ...], rows: str) -> None:
        """Declare an array of ``shape[0]`` rows, channels last. ``rows``: the name of a row, such as ``frame``."""
        self._shapes[name], self._written[name], self._waiting[name] = shape, 0, []
        self.unit.add(name, shape, STORED[self._dtype], {ROWS: rows, **_attributes(self._dtype, shape)})
        if self._dtype == "uint8":
            self.unit.add(name + AFFINE, (-(-shape[0] // block_rows(shape)), 2, shape[-1]), np.float32)

    def append(self, name: str, values: NDArray[np.float32], what: str) -> None:
        """Write the next rows, (any count, *shape[1:]).

        Raises CacheError if a value is not finite or too large; ``what`` names the values in the message. Raises
        ValueError for more rows than declared.
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
    """Bytes of a stored array of features, including its scales, without checksums."""
    affine = -(-shape[0] // block_rows(shape)) * 2 * shape[-1] * 4 if dtype == "uint8" else 0
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(STORED[dtype]).itemsize + affine


def block_rows(shape: tuple[int, ...]) -> int:
    """Number of rows of an array (rows, …, C) that share one scale and offset per channel."""
    return -(-BLOCK_CELLS // int(np.prod(shape[1:-1], dtype=np.int64)))


def quantise(values: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Values (…, C) as bytes of the same shape, and the scale and offset of every channel (2, C).

    The error of a value is at most half a scale, plus float32 rounding. Zeros are exact: where a channel's range
    contains zero, its offset is a multiple of its scale. Channels of a single value are exact too. Scales have 16
    significant bits, so scale · q is exact in float32, and every order of computation decodes to the same bits.
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
    """Decode bytes (n, …, C) into ``out`` (n, …, C). Row i uses ``affine[blocks[i]]``: (b, 2, C) and (n,)."""
    q, scales = torch.from_numpy(stored), torch.from_numpy(affine)
    for start, end in pairwise(np.flatnonzero(np.diff(blocks, prepend=-1, append=-1)).tolist()):
        scale, offset = scales[blocks[start]]
        out[start:end].copy_(q[start:end].float().mul_(scale).add_(offset))


def read_features(
    store: Store, key: str, name: str, rows: IntArray | slice | None = None, out: Tensor | None = None
) -> Tensor:
    """Rows of an array as a tensor (n, …, C), of the type in `READ`; see `Store.read` for rows and errors.

    ``out``: a tensor of exactly that shape and type with a contiguous last axis; filled and returned.
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
        f"{store.path}: {key}, array {name} has an encoding that this release does not support",
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
    """Attributes that state an array's encoding; empty for values that are stored directly."""
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
