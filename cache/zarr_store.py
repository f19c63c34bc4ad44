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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from awscrt.checksums import crc32c
from numpy.typing import NDArray

from .codecs import LEVEL
from .errors import CacheError
from .objects import Location
from .packed import PackedFile
from .sampling import IntArray
from .store import Chunks, Store
from .unit import REPAIR, ArrayFacts, Record, UnitWriter

RECORD = "record.json"
SUM_BYTES = 4
READ_BYTES = 2 * 1024 * 1024
"""About this much is asked for in one call, so that checksums are computed while it is in the processor's cache."""
WRITE_BYTES = 4 * 1024 * 1024
"""Written at once: the system then keeps the file in larger pieces, which are faster to read."""
READ_CHUNKS = 500
"""Each chunk and each checksum is one of the at most 1024 buffers a positioned read takes."""


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
        (folder / "zarr.json").write_bytes(_json(array_metadata(facts)))
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
            expected[f"{name}/zarr.json"] = _json(array_metadata(facts))
            if facts.chunks:
                shards.add(f"{name}/{shard_name(facts)}")
        wanted, present = expected.keys() | shards, self._names(place)
        folders = record.arrays.keys()
        problems = [f"{record.key}: {name} is missing" for name in sorted(wanted - present)]
        problems += [f"{record.key}: {name} does not belong there" for name in sorted(present - wanted - folders)]
        changed = [n for n in expected if n in present and (place / n).read_bytes() != expected[n]]
        return problems + [f"{record.key}: {name} is damaged" for name in changed]

    @staticmethod
    def _names(place: Location) -> set[str]:
        """Files and folders below a unit, relative to it."""
        assert isinstance(place, Path), f"{place} is read by another class"
        return {path.relative_to(place).as_posix() for path in place.rglob("*")}


class ChunkFile:
    """The chunks of one array inside a file, at known places, each checked when it is first read.

    ``offsets``: (chunks,) where each starts. ``sums``: (chunks,) their crc32c; None when each follows its chunk in the
    file, little-endian. With ``sums`` given the last chunk ends with the array; the rest of its target is left alone.
    Reads have no file position, so threads and forked processes may share it. The file closes with the last user.
    """

    def __init__(
        self, path: Path, label: str, facts: ArrayFacts, offsets: IntArray, sums: NDArray[np.uint32] | None = None
    ) -> None:
        self._path, self._label, self._facts = path, label, facts
        self._places, self._sums = offsets, None if sums is None else sums.tolist()
        self._gap = SUM_BYTES if sums is None else 0
        self._batch = max(1, min(READ_CHUNKS, READ_BYTES // facts.chunk_bytes))
        self.verified = bytearray(facts.chunks)
        """1 for every chunk whose checksum was compared. A store keeps it as long as the file stays what it is."""
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CacheError(f"{label}: {path} cannot be read", found=error, hint=REPAIR) from None

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def identity(self) -> tuple[object, ...]:
        """What changes when the file is replaced or written to."""
        status = os.fstat(self._descriptor)
        return self._label, self._path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def read(self, numbers: Sequence[int], targets: Sequence[NDArray[np.uint8]]) -> None:
        """See `Chunks`. Neighbours in the file are read together."""
        step = self._facts.chunk_bytes + self._gap
        places = self._places[np.asarray(numbers, dtype=np.int64)]
        ends = [*(np.flatnonzero(np.diff(places) != step) + 1).tolist(), len(numbers)]
        first = 0
        for end in ends:
            while first < end:
                known = all(self.verified[number] for number in numbers[first:end])
                some = slice(first, min(end, first + (READ_CHUNKS if known else self._batch)))
                self._read_run(numbers[some], targets[some], int(places[first]), known)
                first = some.stop

    def _read_run(self, numbers: Sequence[int], targets: Sequence[NDArray[np.uint8]], offset: int, known: bool) -> None:
        """Chunks that follow each other in the file; checksums are passed over when they are ``known`` to be right."""
        if self._sums is not None:
            targets = [target[: self._length(number)] for number, target in zip(numbers, targets, strict=True)]
        inline = np.empty(len(numbers), "<u4")
        buffers = [target.data for target in targets]
        if self._gap:
            behind = inline.view(np.uint8).reshape(-1, SUM_BYTES)
            sums = [behind.data.cast("B")[:SUM_BYTES]] * len(numbers) if known else [row.data for row in behind]
            buffers = [part for pair in zip(buffers, sums, strict=True) for part in pair]
        try:
            complete = _read_fully(self._descriptor, buffers, offset)
        except OSError as error:
            raise CacheError(f"{self._where(numbers[0])} cannot be read", found=error, hint=REPAIR) from None
        if not complete:
            raise CacheError(f"{self._where(numbers[0])} or one after it is cut off", hint=REPAIR)
        if not known:
            self._verify(numbers, targets, inline.tolist() if self._sums is None else [self._sums[n] for n in numbers])

    def _verify(self, numbers: Sequence[int], targets: Sequence[NDArray[np.uint8]], sums: list[int]) -> None:
        for number, target, expected in zip(numbers, targets, sums, strict=True):
            if (found := crc32c(target)) != expected:  # twice as fast, and other threads go on meanwhile
                raise CacheError(
                    f"{self._where(number)} is damaged",
                    expected=f"crc32c {expected:08x}",
                    found=f"{found:08x}",
                    hint=REPAIR,
                )
            self.verified[number] = 1

    def _length(self, number: int) -> int:
        per = self._facts.rows_per_chunk
        return min(per, self._facts.shape[0] - number * per) * self._facts.row_bytes

    def _where(self, number: int) -> str:
        per = self._facts.rows_per_chunk
        last = min((number + 1) * per, self._facts.shape[0]) - 1
        return f"{self._label}: chunk {number} (rows {number * per} to {last}) of {self._path}"


def _read_fully(descriptor: int, buffers: list[memoryview], offset: int) -> bool:
    """Fill the buffers from a place in a file. False when the file ends before."""
    missing = sum(map(len, buffers))
    while (got := os.preadv(descriptor, buffers, offset)) != missing:
        if not got:
            return False
        offset, missing = offset + got, missing - got
        filled = 0
        while got >= len(buffers[filled]):
            got -= len(buffers[filled])
            filled += 1
        buffers = buffers[filled:]
        buffers[0] = buffers[0][got:]
    return True


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


def array_metadata(facts: ArrayFacts) -> dict[str, Any]:
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
    }


def group_metadata(record: Record) -> dict[str, Any]:
    """zarr.json of a unit. Its attributes are for other readers; ours takes them from the record."""
    return {"zarr_format": 3, "node_type": "group", "attributes": record.attributes}


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()
