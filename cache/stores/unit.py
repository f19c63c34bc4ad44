"""Parts of a unit: facts of its arrays, its completion record, and the writer that both backends share."""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from awscrt.checksums import crc32c
from numpy.typing import DTypeLike, NDArray

from ...atomic import remove
from ...errors import CacheError
from ..schema import FORMAT_VERSION

ARRAY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
CHUNK_BYTES = 64 * 1024
FOREIGN = "does not belong there; it is left alone"
"""End of the message about a foreign file inside a unit."""
REPAIR = "stvg cache verify --repair removes this unit; then extract it again"
ROWS = "rows"
"""Attribute of an array that names its rows: ``frame``, ``region`` or ``token``."""


@dataclass(frozen=True)
class ArrayFacts:
    """Shape (rows first), element type (little-endian) and rows per chunk of a stored array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows_per_chunk: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """The name of its rows (`ROWS`), and the encoding of its elements if they are not plain values; see `quantise`."""
    sums: bytes = b""
    """crc32c of every chunk as little-endian uint32. The last chunk ends with the array, without padding."""

    @classmethod
    def of(cls, shape: Sequence[int], dtype: DTypeLike, attributes: Mapping[str, Any] | None = None) -> ArrayFacts:
        """Facts with chunks of up to 64 KiB, at least one row each.

        Raises ValueError for an unsupported shape or type.
        """
        shape, kind = tuple(int(n) for n in shape), np.dtype(dtype).newbyteorder("<")
        if not shape or shape[0] < 0 or min(shape[1:], default=1) < 1:
            raise ValueError(f"shape {shape}: the first axis counts rows, the others are at least 1")
        if kind.kind not in "biuf" or kind.itemsize > 8:
            raise ValueError(f"{kind} cannot be stored: supported are bool, integers and floats up to 64 bits")
        row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * kind.itemsize
        return cls(shape, kind, max(1, min(CHUNK_BYTES // row_bytes, shape[0])), dict(attributes or {}))

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a whole chunk."""
        return self.rows_per_chunk * self.row_bytes

    @property
    def chunks(self) -> int:
        return -(-self.shape[0] // self.rows_per_chunk)


@dataclass(frozen=True)
class UnitRecord:
    """Description of a complete unit. It is written last and contains a checksum of itself."""

    key: str
    attributes: dict[str, Any]
    arrays: dict[str, ArrayFacts]
    files: dict[str, int] = field(default_factory=dict)
    """crc32c of the unit's other files, by name; empty if it has none."""

    def to_bytes(self) -> bytes:
        """Serialise as JSON. Raises TypeError or ValueError for attributes that JSON cannot represent, such as NaN."""
        arrays = {
            name: {
                "shape": list(facts.shape),
                "dtype": facts.dtype.name,
                "bytes": facts.shape[0] * facts.row_bytes,
                "rows_per_chunk": facts.rows_per_chunk,
                "crc32c": np.frombuffer(facts.sums, "<u4").astype(">u4").tobytes().hex(),
                **({"attributes": facts.attributes} if facts.attributes else {}),
            }
            for name, facts in self.arrays.items()
        }
        content = {"format_version": FORMAT_VERSION, "key": self.key, "attributes": self.attributes, "arrays": arrays}
        content |= {"files": self.files} if self.files else {}
        content = json.loads(json.dumps(content, allow_nan=False))  # as readers will parse it: tuples become lists
        return json.dumps({"crc32c": _checksum(content), **content}).encode()

    @classmethod
    def from_bytes(cls, stored: bytes, key: str | None, where: object) -> UnitRecord:
        """Parse a record. Raises CacheError if it is damaged, has another format version, or names another ``key``."""
        try:
            content = json.loads(stored)
            known = content.pop("crc32c")
            rest = stored.partition(b", ")[2]  # everything after the checksum, in the form `to_bytes` writes
            if known != crc32c(b"{" + rest):
                raise ValueError("its checksum does not match")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheError(f"{where}: the record of {key or 'a unit'} is damaged", found=error, hint=REPAIR) from None
        if content["format_version"] != FORMAT_VERSION:
            raise CacheError(
                f"{where} has another format", expected=f"version {FORMAT_VERSION}", found=content["format_version"]
            )
        if key is not None and content["key"] != key:
            raise CacheError(f"{where} holds another unit", expected=key, found=content["key"])
        arrays = {
            name: ArrayFacts(
                tuple(a["shape"]),
                np.dtype(a["dtype"]).newbyteorder("<"),
                a["rows_per_chunk"],
                a.get("attributes", {}),
                np.frombuffer(bytes.fromhex(a["crc32c"]), ">u4").astype("<u4").tobytes(),
            )
            for name, a in content["arrays"].items()
        }
        return cls(content["key"], content["attributes"], arrays, content.get("files", {}))


def _checksum(content: object) -> int:
    return crc32c(json.dumps(content).encode())


class UnitWriter(ABC):
    """Writes one unit under a temporary name: ``add`` every array, ``append`` its rows in order, then ``commit``.

    Appends to different arrays may alternate. Memory use is constant. Not safe to share between threads.
    """

    def __init__(self, publish: Callable[[str, Path], bool], key: str, temporary: Path) -> None:
        self.key, self.temporary, self._publish = key, temporary, publish
        self._facts: dict[str, ArrayFacts] = {}
        self._rows: dict[str, int] = {}
        self._sums: dict[str, list[int]] = {}
        self._open = True

    def add(
        self, name: str, shape: Sequence[int], dtype: DTypeLike, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Declare an array of ``shape[0]`` rows, with attributes for its readers.

        Raises ValueError for an unsupported shape, type or name.
        """
        self._require_open()
        if not ARRAY_NAME.fullmatch(name) or name.lower() in map(str.lower, self._facts):
            raise ValueError(
                f"{name!r} cannot name an array: use up to 80 letters, digits, _ and -, and names that differ in more "
                "than upper and lower case"
            )
        self._facts[name] = ArrayFacts.of(shape, dtype, attributes)
        self._rows[name], self._sums[name] = 0, []
        self._create(name, self._facts[name])

    def append(self, name: str, block: NDArray[Any]) -> None:
        """Write the next rows: (any count, *shape[1:]) of the declared type.

        Raises ValueError for another shape or type, and for more rows than declared.
        """
        facts = self._facts[name]
        self._require_open()
        if block.shape[1:] != facts.shape[1:] or block.dtype != facts.dtype or block.ndim != len(facts.shape):
            raise ValueError(f"{name}: rows of {facts.shape[1:]} {facts.dtype}, got {block.shape} {block.dtype}")
        if self._rows[name] + len(block) > facts.shape[0]:
            raise ValueError(f"{name}: {facts.shape[0]} rows declared, {self._rows[name] + len(block)} given")
        if len(block):
            rows = np.ascontiguousarray(block, dtype=facts.dtype)
            self._write(name, self._rows[name], rows)
            self._add_sums(name, rows.reshape(-1).view(np.uint8).data)
            self._rows[name] += len(rows)

    def _add_sums(self, name: str, content: memoryview) -> None:
        facts, sums = self._facts[name], self._sums[name]
        filled = self._rows[name] * facts.row_bytes % facts.chunk_bytes
        cuts = [*range(facts.chunk_bytes - filled, len(content), facts.chunk_bytes), len(content)]
        for i, (start, stop) in enumerate(zip([0, *cuts], cuts, strict=False)):
            if i == 0 and filled:
                sums[-1] = crc32c(content[:stop], sums[-1])
            else:
                sums.append(crc32c(content[start:stop]))

    def commit(self, attributes: dict[str, Any]) -> bool:
        """Flush the unit to disk and make it visible.

        Returns False if another writer was first. Its unit stays, and this one is discarded.
        Raises CacheError if an array has too few rows, or if an incomplete unit has this name.
        """
        self._require_open()
        missing = {name: facts.shape[0] - self._rows[name] for name, facts in self._facts.items()}
        if any(missing.values()):
            found = ", ".join(f"{name} lacks {count} rows" for name, count in missing.items() if count)
            raise CacheError(f"{self.key} is incomplete", found=found, effect="nothing of it was stored")
        sums = {name: np.array(found, "<u4").tobytes() for name, found in self._sums.items()}
        arrays = {name: replace(facts, sums=sums[name]) for name, facts in self._facts.items()}
        self._finish(UnitRecord(self.key, attributes, arrays))
        self._open = False
        return self._publish(self.key, self.temporary)

    def discard(self) -> None:
        """Remove everything that was not committed."""
        self._open = False
        try:
            self._close()
        finally:
            remove(self.temporary)

    def _require_open(self) -> None:
        if not self._open:
            raise ValueError(f"{self.key} is already committed or discarded")

    @abstractmethod
    def _create(self, name: str, facts: ArrayFacts) -> None: ...

    @abstractmethod
    def _write(self, name: str, row: int, rows: NDArray[Any]) -> None:
        """Store rows from row number ``row``. Calls for one array come in row order."""

    @abstractmethod
    def _finish(self, record: UnitRecord) -> None:
        """Write the remaining parts, the record last, and close the files."""

    @abstractmethod
    def _close(self) -> None: ...
