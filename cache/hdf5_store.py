"""Units as HDF5 files, one each: ``videos/<unit>.h5``.

Every array is a contiguous, uncompressed dataset, with the checksums of its chunks of rows in a dataset beside it
(``c5``, ``c5_crc32c``); the completion record is the root attribute ``record``, written last. The HDF5 library writes
the files and finds the datasets in them. Rows are then read at their positions, without the library and its lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from .errors import CacheError
from .store import Store
from .unit import CHECKSUMS, REPAIR, ArrayFacts, Record, UnitWriter
from .zarr_store import ChunkFile

LIBRARY = (h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V110)
"""Checksummed metadata, readable by every HDF5 since 1.10."""


class Hdf5Writer(UnitWriter):
    """See `UnitWriter`."""

    def __init__(self, store: Store, key: str, temporary: Path) -> None:
        super().__init__(store, key, temporary)
        self._file = _created(temporary)
        self._chunk_sums: dict[str, list[int]] = {}

    def _create(self, name: str, facts: ArrayFacts) -> None:
        self._file.create_dataset(name, shape=facts.shape, dtype=facts.dtype)
        self._chunk_sums[name] = []

    def _write(self, name: str, row: int, rows: NDArray[Any]) -> None:
        self._file[name][row : row + len(rows)] = rows

    def _end_chunk(self, name: str, checksum: int, missing: int) -> None:
        self._chunk_sums[name].append(checksum)

    def _finish(self, record: Record) -> None:
        stored = record.to_bytes().decode()
        for name, sums in self._chunk_sums.items():
            self._file.create_dataset(name + CHECKSUMS, data=np.array(sums, dtype="<u4"))
        self._file.attrs["record"] = stored
        self._close()

    def _close(self) -> None:
        self._file.close()

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
    return h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_EXCL, timeless, access))


class Hdf5Store(Store):
    """See `Store`."""

    suffix = ".h5"

    def _new_writer(self, key: str, temporary: Path) -> Hdf5Writer:
        return Hdf5Writer(self, key, temporary)

    @staticmethod
    def _complete(place: Path) -> bool:
        return place.is_file()  # only whole files get this name

    @staticmethod
    def _read_record(place: Path, key: str | None) -> Record:
        with _opened(place, key or "a unit") as file:
            stored = str(file.attrs["record"]).encode()
        return Record.from_bytes(stored, key, place)

    @classmethod
    def _open_array(cls, place: Path, key: str, name: str) -> ChunkFile:
        facts, label = cls._read_record(place, key).arrays[name], f"{key}, array {name}"
        with _opened(place, label) as file:
            dataset, sums = file[name], file[name + CHECKSUMS][:]
            found = (dataset.shape, dataset.dtype, len(sums))
            start = dataset.id.get_offset()
        if found != (facts.shape, facts.dtype, facts.chunks) or start is None:
            raise CacheError(f"{label}: {place} contradicts its record", expected=facts, found=found, hint=REPAIR)
        offsets = start + np.arange(facts.chunks, dtype=np.int64) * facts.chunk_bytes
        return ChunkFile(place, label, facts, offsets, sums)

    def _check_layout(self, place: Path, record: Record) -> list[str]:
        expected = {part for name in record.arrays for part in (name, name + CHECKSUMS)}
        with _opened(place, record.key) as file:
            present = set(file)
        problems = [f"{record.key}: dataset {name} is missing" for name in sorted(expected - present)]
        return problems + [f"{record.key}: dataset {name} does not belong there" for name in sorted(present - expected)]


@contextmanager
def _opened(place: Path, label: str) -> Iterator[h5py.File]:
    """A unit's file, opened and closed at once: no handle is kept that threads or forked processes could share."""
    if not place.is_file():
        raise CacheError(f"{place} is not there", hint="stvg extract writes it")
    try:
        with h5py.File(place, "r", locking=False) as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        # How the library reports damaged metadata depends on where the damage is.
        raise CacheError(f"{label}: {place} is damaged", found=error, hint=REPAIR) from None
