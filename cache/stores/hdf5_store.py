"""Units as HDF5 files, one file per unit: ``videos/<unit>.h5``.

Every array is a contiguous dataset. The completion record is the root attribute ``record``, written last. The HDF5
library writes the files and locates the datasets. Rows are then read with positioned reads, without the library and its
global lock.

The format leaves some bytes of a file without a checksum. So the user block, which HDF5 reserves for applications,
holds a checksum of all bytes that follow it. `Store.check` compares it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
from awscrt.checksums import crc32c
from numpy.typing import NDArray

from ...errors import CacheError
from ...objects import Location
from .chunk_file import ChunkFile
from .contract import Store
from .unit import REPAIR, ArrayFacts, UnitRecord, UnitWriter

LIBRARY = (h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V110)
"""Range of format versions: metadata has checksums, and every HDF5 library since 1.10 can read it."""

USER_BLOCK = 512
"""Bytes of the user block at the start of a file; 512 is the format's minimum."""


class Hdf5Writer(UnitWriter):
    """See `UnitWriter`."""

    def __init__(self, publish: Callable[[str, Path], bool], key: str, temporary: Path) -> None:
        super().__init__(publish, key, temporary)
        self._file = _created(temporary)

    def _create(self, name: str, facts: ArrayFacts) -> None:
        self._file.create_dataset(name, shape=facts.shape, dtype=facts.dtype).attrs.update(facts.attributes)

    def _write(self, name: str, row: int, rows: NDArray[np.generic]) -> None:
        self._file[name][row : row + len(rows)] = rows

    def _finish(self, record: UnitRecord) -> None:
        self._file.attrs["record"] = record.to_bytes().decode()
        self._close()
        with open(self.temporary, "r+b") as file:
            block = user_block(file)
            file.seek(0)
            file.write(block)

    def _close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        if self._file:  # on a full disk, the library aborts the process when it flushes its buffers at close
            with suppress(OSError):
                os.truncate(self.temporary, 0)
        super().discard()


def _created(path: Path) -> h5py.File:
    """Create an unbuffered file: a full disk then raises an error in the write that fails, not later."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(*LIBRARY)
    access.set_file_locking(False, False)
    access.set_sieve_buf_size(0)
    timeless = h5py.h5p.create(h5py.h5p.FILE_CREATE)  # no timestamps: equal units give identical files
    timeless.set_obj_track_times(False)
    timeless.set_userblock(USER_BLOCK)
    return h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_EXCL, timeless, access))


class Hdf5Store(Store):
    """See `Store`."""

    suffix = ".h5"

    def _new_writer(self, key: str, temporary: Path) -> Hdf5Writer:
        return Hdf5Writer(self.publish, key, temporary)

    @staticmethod
    def _complete(place: Location) -> bool:
        return place.is_file()  # only complete files are renamed to this name

    @staticmethod
    def _read_record(place: Location, key: str | None) -> UnitRecord:
        with _opened(place, key or "a unit") as file:
            stored = str(file.attrs["record"]).encode()
        return UnitRecord.from_bytes(stored, key, place)

    @classmethod
    def _open_array(cls, place: Location, key: str, name: str, facts: ArrayFacts) -> ChunkFile:
        label = f"{key}, array {name}"
        with _opened(place, label) as file:
            dataset = file[name]
            found, start = (dataset.shape, dataset.dtype), dataset.id.get_offset()
        expected = (facts.shape, facts.dtype)
        if found != expected or start is None:
            raise CacheError(f"{label}: {place} contradicts its record", expected=expected, found=found, hint=REPAIR)
        return ChunkFile(Path(str(place)), label, facts, start)

    def check(self, key: str) -> list[str]:
        """See `Store.check`. The checksum of the whole file covers the bytes that no chunk checksum covers."""
        if problems := super().check(key):
            return problems
        place = self.place(key)
        with open(str(place), "rb") as file:
            whole = file.read(USER_BLOCK) == user_block(file)
        return [] if whole else [f"{key}: {place} is damaged outside its arrays"]

    def _check_layout(self, place: Location, record: UnitRecord) -> list[str]:
        expected = set(record.arrays)
        with _opened(place, record.key) as file:
            present = set(file)
            attributes = {name: dict(file[name].attrs) for name in record.arrays if name in present}
        problems = [f"{record.key}: dataset {name} is missing" for name in sorted(expected - present)]
        wrong = [name for name, found in attributes.items() if found != record.arrays[name].attributes]
        problems += [f"{record.key}: the attributes of dataset {name} are not the record's" for name in wrong]
        return problems + [f"{record.key}: dataset {name} does not belong there" for name in sorted(present - expected)]


def user_block(file: BinaryIO) -> bytes:
    """The user block of a file: the crc32c of all bytes that follow it, padded with zeros."""
    file.seek(USER_BLOCK)
    total = 0
    while block := file.read(1 << 20):
        total = crc32c(block, total)
    return f"stvg crc32c {total:08x}\n".encode().ljust(USER_BLOCK, b"\0")


@contextmanager
def _opened(place: Location, label: str) -> Iterator[h5py.File]:
    """A unit's file, open within the block only: threads and forked processes must not share an HDF5 handle."""
    assert isinstance(place, Path), f"{place} cannot hold HDF5 files"
    if not place.is_file():
        raise CacheError(f"{place} is not there", hint="stvg extract writes it")
    try:
        with h5py.File(place, "r", locking=False) as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        # The library reports damaged metadata by different exceptions, depending on the damaged part.
        raise CacheError(f"{label}: {place} is damaged", found=error, hint=REPAIR) from None
