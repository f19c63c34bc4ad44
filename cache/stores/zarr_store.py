"""Units as Zarr v3 groups in local folders, written and read here without a Zarr library; any Zarr reader opens them.

    videos/<unit>/zarr.json        the group, with the unit's attributes
    videos/<unit>/record.json      the completion record, written last
    videos/<unit>/c5/zarr.json     one array
    videos/<unit>/c5/c.0.0.0.0     its only shard: chunks of rows, each followed by its crc32c, then the index

Chunks lie at known places in a single uncompressed file, so some frames of a video are a few positioned reads, straight
into the caller's memory. Packed chunks lie where the index says.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ...errors import CacheError
from ...objects import Location
from ..sampling import IntArray
from .chunk_file import SUM_BYTES, ChunkFile
from .codecs import LEVEL
from .contract import Chunks, Store
from .packed import PackedFile
from .unit import REPAIR, ArrayFacts, Record, UnitWriter

RECORD = "record.json"
WRITE_BYTES = 4 * 1024 * 1024
"""Written at once: the system then keeps the file in larger pieces, which are faster to read."""


class ZarrWriter(UnitWriter):
    """See `UnitWriter`. One file per array is open while writing."""

    def __init__(self, store: Store, key: str, temporary: Path) -> None:
        super().__init__(store, key, temporary)
        self._files: dict[str, BinaryIO] = {}
        self._lengths: dict[str, list[int]] = {}
        temporary.mkdir()

    def _create(self, name: str, facts: ArrayFacts) -> None:
        folder = self.temporary / name
        folder.mkdir()
        (folder / "zarr.json").write_bytes(_json(array_metadata(name, facts)))
        self._lengths[name] = []
        if facts.chunks:
            place = folder / shard_name(facts)
            self._files[name] = open(place, "xb", WRITE_BYTES)  # noqa: SIM115  # stays open until committed

    def _write(self, name: str, row: int, rows: NDArray[Any]) -> None:
        self._files[name].write(rows.reshape(-1).view(np.uint8).data)

    def _end_chunk(self, name: str, checksum: int, missing: int) -> None:
        padding = bytes(missing * self._facts[name].row_bytes)
        self._files[name].write(padding + google_crc32c.extend(checksum, padding).to_bytes(SUM_BYTES, "little"))

    def _write_packed(self, name: str, packed: bytes, checksum: int) -> None:
        self._files[name].write(packed + checksum.to_bytes(SUM_BYTES, "little"))
        self._lengths[name].append(len(packed) + SUM_BYTES)

    def _finish(self, record: Record) -> None:
        stored = record.to_bytes()
        for name, file in self._files.items():
            facts, lengths = self._facts[name], np.array(self._lengths[name], dtype="<u8")
            index = (index_of(lengths) if facts.compression else shard_index(facts)).tobytes()
            file.write(index + google_crc32c.value(index).to_bytes(SUM_BYTES, "little"))
        self._close()
        (self.temporary / "zarr.json").write_bytes(_json(group_metadata(record)))
        (self.temporary / RECORD).write_bytes(stored)

    def _close(self) -> None:
        for file in self._files.values():
            file.close()


class ZarrStore(Store):
    """See `Store`."""

    codec = "zstd"

    def _new_writer(self, key: str, temporary: Path) -> ZarrWriter:
        return ZarrWriter(self, key, temporary)

    @staticmethod
    def _complete(place: Location) -> bool:
        return (place / RECORD).is_file()

    @staticmethod
    def _read_record(place: Location, key: str | None) -> Record:
        try:
            stored = (place / RECORD).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise CacheError(f"{place} is not there, or not complete", hint="stvg extract writes it") from None
        except OSError as error:
            raise CacheError(f"{place}: the record of {key or 'a unit'} cannot be read", found=error) from None
        return Record.from_bytes(stored, key, place)

    @classmethod
    def _open_array(cls, place: Location, key: str, name: str) -> Chunks:
        facts = cls._read_record(place, key).arrays[name]
        path, label = place / name / shard_name(facts), f"{key}, array {name}"
        assert isinstance(path, Path), f"{path} is read by another class"
        if facts.compression:
            return open_packed(path, label, facts)
        expected = shard_index(facts)
        size = facts.chunks * (facts.chunk_bytes + SUM_BYTES) + expected.nbytes + SUM_BYTES
        try:
            with open(path, "rb") as file:
                found = os.fstat(file.fileno()).st_size
                file.seek(size - expected.nbytes - SUM_BYTES)
                tail = file.read(expected.nbytes + SUM_BYTES)
        except OSError as error:
            raise CacheError(f"{label}: {path} cannot be read", found=error, hint=REPAIR) from None
        if found != size:
            raise CacheError(f"{label}: {path} has another size", expected=size, found=f"{found} bytes", hint=REPAIR)
        index, checksum = tail[:-SUM_BYTES], int.from_bytes(tail[-SUM_BYTES:], "little")
        if google_crc32c.value(index) != checksum or index != expected.tobytes():
            raise CacheError(f"{label}: the chunk index of {path} is damaged", hint=REPAIR)
        return ChunkFile(path, label, facts, expected[:, 0].astype(np.int64))

    def _check_layout(self, place: Location, record: Record) -> list[str]:
        expected = {"zarr.json": _json(group_metadata(record)), RECORD: record.to_bytes()}
        shards = set()
        for name, facts in record.arrays.items():
            expected[f"{name}/zarr.json"] = _json(array_metadata(name, facts))
            if facts.chunks:
                shards.add(f"{name}/{shard_name(facts)}")
        wanted, present = expected.keys() | shards, self._names(place)
        folders = record.arrays.keys()
        problems = [f"{record.key}: {name} is missing" for name in sorted(wanted - present)]
        problems += [f"{record.key}: {name} does not belong there" for name in sorted(present - wanted - folders)]
        found = {n: (place / n).read_bytes() for n in expected if n in present}
        changed = [n for n, stored in found.items() if stored not in (expected[n], _before_names(expected[n]))]
        return problems + [f"{record.key}: {name} is damaged" for name in changed]

    @staticmethod
    def _names(place: Location) -> set[str]:
        """Files and folders below a unit, relative to it."""
        assert isinstance(place, Path), f"{place} is read by another class"
        return {path.relative_to(place).as_posix() for path in place.rglob("*")}


def shard_name(facts: ArrayFacts) -> str:
    """An array's only chunk file, in Zarr's naming with dots."""
    return ".".join(["c", *("0" for _ in facts.shape)])


def shard_index(facts: ArrayFacts) -> NDArray[np.uint64]:
    """Offset and length of every chunk with its checksum, in order: (chunks, 2), little-endian."""
    return index_of(np.full(facts.chunks, facts.chunk_bytes + SUM_BYTES, dtype="<u8"))


def index_of(lengths: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The index of chunks that lie one behind the other."""
    return np.stack([np.cumsum(lengths, dtype="<u8") - lengths, lengths], axis=1)


def open_packed(path: Path, label: str, facts: ArrayFacts) -> PackedFile:
    """A shard of packed chunks, whose lengths only its index tells."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - packed_tail(facts)))
            tail = file.read()
    except OSError as error:
        raise CacheError(f"{label}: {path} cannot be read", found=error, hint=REPAIR) from None
    return PackedFile(path, label, facts, *packed_places(tail, size, facts, f"{label}: the chunk index of {path}"))


def packed_tail(facts: ArrayFacts) -> int:
    """Bytes of the index at the end of a shard of packed chunks, its checksum included."""
    return facts.chunks * 16 + SUM_BYTES


def packed_places(tail: bytes, size: int, facts: ArrayFacts, where: str) -> tuple[IntArray, IntArray]:
    """Offsets and lengths (chunks,) of packed chunks, checksums left out, from a shard's last bytes.

    Raises CacheError when they are damaged, or do not fit a shard of ``size`` bytes.
    """
    stored, checksum = tail[:-SUM_BYTES], int.from_bytes(tail[-SUM_BYTES:], "little")
    if len(tail) != packed_tail(facts) or google_crc32c.value(stored) != checksum:
        raise CacheError(f"{where} is damaged, or the file is cut off", hint=REPAIR)
    lengths = np.frombuffer(stored, "<u8").reshape(-1, 2)[:, 1]
    expected = index_of(lengths)
    if stored != expected.tobytes() or int(lengths.sum()) + len(tail) != size:
        raise CacheError(f"{where} does not fit the file", found=f"{size} bytes", hint=REPAIR)
    return expected[:, 0].astype(np.int64), lengths.astype(np.int64) - SUM_BYTES


ROWS = {"c3": "frame", "c4": "frame", "c5": "frame", "roi": "region", "hidden": "token"}
"""What the rows of an array are. Arrays of a unit that have the same rows say so by an equal name."""
AXES = {4: ("y", "x", "channel"), 3: ("cell", "channel"), 2: ("channel",)}


def dimension_names(name: str, axes: int) -> list[str]:
    """A name for every axis, as xarray needs them: equal names mean equal lengths, within a unit."""
    level = re.sub(r"^view\d+_", "", name)
    if level not in ROWS or axes not in AXES:
        return [f"{name}_{axis}" for axis in range(axes)]
    return [ROWS[level], *(f"{name}_{axis}" for axis in AXES[axes])]


def array_metadata(name: str, facts: ArrayFacts) -> dict[str, Any]:
    """zarr.json of an array. The shard holds a whole number of chunks, as Zarr wants it."""
    plain = {"name": "bytes", "configuration": {"endian": "little"}}
    inner = (facts.rows_per_chunk, *facts.shape[1:])
    shard = (max(1, facts.chunks) * facts.rows_per_chunk, *facts.shape[1:])
    packing = [{"name": "zstd", "configuration": {"level": LEVEL, "checksum": False}}] if facts.compression else []
    sharding = {
        "chunk_shape": inner,
        "codecs": [plain, *packing, {"name": "crc32c"}],
        "index_codecs": [plain, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": facts.shape,
        "data_type": facts.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": np.zeros((), facts.dtype).item(),
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": facts.attributes,
        "dimension_names": dimension_names(name, len(facts.shape)),
    }


def _before_names(stored: bytes) -> bytes:
    """A zarr.json as it was written before it named its dimensions."""
    content = json.loads(stored)
    return _json({name: value for name, value in content.items() if name != "dimension_names"})


def group_metadata(record: Record) -> dict[str, Any]:
    """zarr.json of a unit. Its attributes are for other readers; ours takes them from the record."""
    return {"zarr_format": 3, "node_type": "group", "attributes": record.attributes}


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()
