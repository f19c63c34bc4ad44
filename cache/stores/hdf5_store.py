"""Units as HDF5 files, one each: ``videos/<unit>.h5``.

Every array is a contiguous dataset, or a chunked one where it is packed, with the checksums of its chunks of rows in a
dataset beside it (``c5``, ``c5_crc32c``); the completion record is the root attribute ``record``, written last. The HDF5
library writes the files and finds the datasets in them. Rows are then read at their positions, without the library and
its lock.

Some bytes of such a file are guarded by no checksum of the format. The user block in front, which HDF5 leaves to
applications, holds one of all the others; `Store.check` compares it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, BinaryIO

import google_crc32c
import h5py
import numpy as np
from numpy.typing import NDArray

from ...errors import CacheError
from ...objects import Location
from ..sampling import IntArray
from .chunk_file import ChunkFile
from .codecs import LEVEL
from .contract import Store
from .packed import PackedFile
from .unit import CHECKSUMS, REPAIR, ArrayFacts, Record, UnitWriter

LIBRARY = (h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V110)
"""Checksummed metadata, readable by every HDF5 since 1.10."""

USER_BLOCK = 512
"""Bytes in front of the HDF5 file proper; 512 is the least the format allows."""


class Hdf5Writer(UnitWriter):
    """See `UnitWriter`."""

    def __init__(self, store: Store, key: str, temporary: Path) -> None:
        super().__init__(store, key, temporary)
        self._file = _created(temporary)
        self._chunk_sums: dict[str, list[int]] = {}
        self._packed: dict[str, IO[bytes]] = {}
        self._lengths: dict[str, list[int]] = {}

    def _create(self, name: str, facts: ArrayFacts) -> None:
        layout = {}
        if facts.compression and facts.chunks:
            chunks = (facts.rows_per_chunk, *facts.shape[1:])
            layout = {"chunks": chunks, "compression": "gzip", "compression_opts": LEVEL}
        dataset = self._file.create_dataset(name, shape=facts.shape, dtype=facts.dtype, **layout)
        dataset.attrs.update(facts.attributes)
        self._chunk_sums[name] = []

    def _write(self, name: str, row: int, rows: NDArray[Any]) -> None:
        self._file[name][row : row + len(rows)] = rows

    def _end_chunk(self, name: str, checksum: int, missing: int) -> None:
        self._chunk_sums[name].append(checksum)

    def _write_packed(self, name: str, packed: bytes, checksum: int) -> None:
        # Put aside until the end: HDF5 places chunks in the order they are written, and arrays are filled by turns.
        if name not in self._packed:
            self._packed[name], self._lengths[name] = TemporaryFile(dir=self.temporary.parent), []  # noqa: SIM115
        self._packed[name].write(packed)
        self._lengths[name].append(len(packed))
        self._chunk_sums[name].append(checksum)

    def _place_packed(self, name: str) -> None:
        facts, file = self._facts[name], self._packed[name]
        file.seek(0)
        for number, length in enumerate(self._lengths[name]):
            corner = (number * facts.rows_per_chunk, *(0 for _ in facts.shape[1:]))
            self._file[name].id.write_direct_chunk(corner, file.read(length))

    def _finish(self, record: Record) -> None:
        stored = record.to_bytes().decode()
        for name in sorted(self._packed):
            self._place_packed(name)
        for name, sums in self._chunk_sums.items():
            self._file.create_dataset(name + CHECKSUMS, data=np.array(sums, dtype="<u4"))
        self._file.attrs["record"] = stored
        self._close()
        with open(self.temporary, "r+b") as file:
            block = user_block(file)
            file.seek(0)
            file.write(block)

    def _close(self) -> None:
        self._file.close()
        for file in self._packed.values():
            file.close()

    def discard(self) -> None:
        if self._file:  # the library ends the whole process when it finds no room for what it still holds back
            with suppress(OSError):
                os.truncate(self.temporary, 0)
        super().discard()


def _created(path: Path) -> h5py.File:
    """A new file in which rows are written at once, so that a disk's refusal is an error of the write it refuses."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(*LIBRARY)
    access.set_file_locking(False, False)
    access.set_sieve_buf_size(0)
    timeless = h5py.h5p.create(h5py.h5p.FILE_CREATE)  # equal units are equal files
    timeless.set_obj_track_times(False)
    timeless.set_userblock(USER_BLOCK)
    return h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_EXCL, timeless, access))


class Hdf5Store(Store):
    """See `Store`."""

    suffix = ".h5"
    codec = "gzip"

    def _new_writer(self, key: str, temporary: Path) -> Hdf5Writer:
        return Hdf5Writer(self, key, temporary)

    @staticmethod
    def _complete(place: Location) -> bool:
        return place.is_file()  # only whole files get this name

    @staticmethod
    def _read_record(place: Location, key: str | None) -> Record:
        with _opened(place, key or "a unit") as file:
            stored = str(file.attrs["record"]).encode()
        return Record.from_bytes(stored, key, place)

    @classmethod
    def _open_array(cls, place: Location, key: str, name: str) -> ChunkFile | PackedFile:
        facts, label = cls._read_record(place, key).arrays[name], f"{key}, array {name}"
        with _opened(place, label) as file:
            dataset, sums = file[name], file[name + CHECKSUMS][:]
            found = (dataset.shape, dataset.dtype, len(sums), dataset.compression)
            start = dataset.id.get_offset()
            places = _chunk_places(dataset) if dataset.chunks else np.empty((0, 2), np.int64)
        expected = (facts.shape, facts.dtype, facts.chunks, facts.compression)
        if found != expected or (len(places) != facts.chunks if facts.compression else start is None):
            raise CacheError(f"{label}: {place} contradicts its record", expected=expected, found=found, hint=REPAIR)
        if facts.compression:
            return PackedFile(Path(str(place)), label, facts, places[:, 0], places[:, 1], sums)
        offsets = start + np.arange(facts.chunks, dtype=np.int64) * facts.chunk_bytes
        return ChunkFile(Path(str(place)), label, facts, offsets, sums)

    def check(self, key: str) -> list[str]:
        """See `Store.check`. What no checksum of an array covers is found by that of the whole file."""
        if problems := super().check(key):
            return problems
        place = self.place(key)
        with open(str(place), "rb") as file:
            whole = file.read(USER_BLOCK) == user_block(file)
        return [] if whole else [f"{key}: {place} is not, byte for byte, as it was written"]

    def _check_layout(self, place: Location, record: Record) -> list[str]:
        expected = {part for name in record.arrays for part in (name, name + CHECKSUMS)}
        with _opened(place, record.key) as file:
            present = set(file)
            attributes = {name: dict(file[name].attrs) for name in record.arrays if name in present}
        problems = [f"{record.key}: dataset {name} is missing" for name in sorted(expected - present)]
        wrong = [name for name, found in attributes.items() if found != record.arrays[name].attributes]
        problems += [f"{record.key}: the attributes of dataset {name} are not the record's" for name in wrong]
        return problems + [f"{record.key}: dataset {name} does not belong there" for name in sorted(present - expected)]


def user_block(file: BinaryIO) -> bytes:
    """What belongs in front of a file: the crc32c of all that follows, and zeros."""
    file.seek(USER_BLOCK)
    total = 0
    while block := file.read(1 << 20):
        total = google_crc32c.extend(total, block)
    return f"stvg crc32c {total:08x}\n".encode().ljust(USER_BLOCK, b"\0")


def _chunk_places(dataset: h5py.Dataset) -> IntArray:
    """(chunks, 2): where each stored chunk lies in the file, and its length."""
    found: list[h5py.h5d.StoreInfo] = []
    dataset.id.chunk_iter(found.append)
    return np.array([(info.byte_offset, info.size) for info in sorted(found)], np.int64).reshape(-1, 2)


@contextmanager
def _opened(place: Location, label: str) -> Iterator[h5py.File]:
    """A unit's file, opened and closed at once: no handle is kept that threads or forked processes could share."""
    assert isinstance(place, Path), f"{place} cannot hold HDF5 files"
    if not place.is_file():
        raise CacheError(f"{place} is not there", hint="stvg extract writes it")
    try:
        with h5py.File(place, "r", locking=False) as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        # How the library reports damaged metadata depends on where the damage is.
        raise CacheError(f"{label}: {place} is damaged", found=error, hint=REPAIR) from None
