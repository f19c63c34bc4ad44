"""Units as Zarr v3 groups in local folders. Any Zarr reader opens them.

    videos/<unit>/zarr.json        the group, with the unit's attributes
    videos/<unit>/record.json      the completion record, written last
    videos/<unit>/<array>/zarr.json     metadata of one array
    videos/<unit>/<array>/c.0.0.0.0     its only shard: the chunks of rows in order, then their index

Chunks are uncompressed and have known offsets in a single file. So some frames of a video take a few positioned reads
into the caller's memory. The Zarr library writes the metadata documents; reading a unit here does not need it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from awscrt.checksums import crc32c
from numpy.typing import NDArray

from ...errors import CacheError
from ...objects import Location
from .chunk_file import ChunkFile
from .contract import Store
from .rows import Chunks
from .unit import FOREIGN, REPAIR, ROWS, ArrayFacts, UnitRecord, UnitWriter

RECORD = "record.json"
DOCUMENT = "zarr.json"
WRITE_BYTES = 4 * 1024 * 1024
"""Buffer size of a shard's writes. Large writes give larger extents on disk, which read faster."""


class ZarrWriter(UnitWriter):
    """See `UnitWriter`. One file per array is open while writing."""

    def __init__(self, publish: Callable[[str, Path], bool], key: str, temporary: Path) -> None:
        super().__init__(publish, key, temporary)
        self._files: dict[str, BinaryIO] = {}
        self._documents: dict[str, int] = {}
        temporary.mkdir()

    def _create(self, name: str, facts: ArrayFacts) -> None:
        (self.temporary / name).mkdir()
        self._write_document(name, array_document(name, facts))
        if facts.chunks:
            place = self.temporary / name / shard_name(facts)
            self._files[name] = open(place, "xb", WRITE_BYTES)  # noqa: SIM115  # stays open until committed

    def _write_document(self, folder: str, stored: bytes) -> None:
        """Write zarr.json of the unit or of one of its arrays, and keep its checksum for the record."""
        place = Path(folder, DOCUMENT)
        (self.temporary / place).write_bytes(stored)
        self._documents[place.as_posix()] = crc32c(stored)

    def _write(self, name: str, row: int, rows: NDArray[np.generic]) -> None:
        self._files[name].write(rows.reshape(-1).view(np.uint8).data)

    def _finish(self, record: UnitRecord) -> None:
        record.to_bytes()  # raises early for attributes that JSON cannot represent
        for name, file in self._files.items():
            file.write(shard_tail(self._facts[name]))
        self._close()
        self._write_document("", group_document(record.attributes))
        record.files.update(self._documents)
        (self.temporary / RECORD).write_bytes(record.to_bytes())

    def _close(self) -> None:
        for file in self._files.values():
            file.close()


class ZarrStore(Store):
    """See `Store`."""

    def _new_writer(self, key: str, temporary: Path) -> ZarrWriter:
        return ZarrWriter(self.publish, key, temporary)

    @staticmethod
    def _complete(place: Location) -> bool:
        return (place / RECORD).is_file()

    @staticmethod
    def _read_record(place: Location, key: str | None) -> UnitRecord:
        try:
            stored = (place / RECORD).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise CacheError(f"{place} is not there, or not complete", hint="stvg extract writes it") from None
        except OSError as error:
            raise CacheError(f"{place}: the record of {key or 'a unit'} cannot be read", found=error) from None
        return UnitRecord.from_bytes(stored, key, place)

    @classmethod
    def _open_array(cls, place: Location, key: str, name: str, facts: ArrayFacts) -> Chunks:
        path, label = place / name / shard_name(facts), f"{key}, array {name}"
        assert isinstance(path, Path), f"{path} is read by another class"
        file = ChunkFile(path, label, facts, 0)
        require_size(file.bytes, facts, f"{label}: {path}")
        return file

    def _check_layout(self, place: Location, record: UnitRecord) -> list[str]:
        shards = {f"{name}/{shard_name(facts)}": facts for name, facts in record.arrays.items() if facts.chunks}
        wanted, present = {RECORD, *record.files, *shards}, self._names(place)
        folders = record.arrays.keys()
        problems = [f"{record.key}: {name} is missing" for name in sorted(wanted - present)]
        problems += [f"{record.key}: {name} {FOREIGN}" for name in sorted(present - wanted - folders)]
        damaged = [n for n, known in record.files.items() if n in present and crc32c((place / n).read_bytes()) != known]
        problems += [f"{record.key}: {name} is damaged" for name in damaged]
        for name, facts in shards.items():
            tail = shard_tail(facts)
            found = self._tail(place / name, facts) if name in present else tail
            if len(found) == len(tail) and found != tail:  # reading the chunks reports another length
                problems.append(f"{record.key}: {name}: the padding or index after the chunks is damaged")
        return problems

    @staticmethod
    def _tail(path: Location, facts: ArrayFacts) -> bytes:
        """The bytes after the rows of a shard."""
        with open(str(path), "rb") as file:
            file.seek(facts.shape[0] * facts.row_bytes)
            return file.read()

    @staticmethod
    def _names(place: Location) -> set[str]:
        """Relative paths of the files and folders of a unit."""
        assert isinstance(place, Path), f"{place} is read by another class"
        return {path.relative_to(place).as_posix() for path in place.rglob("*")}


def require_size(found: int, facts: ArrayFacts, where: str) -> None:
    """Raise CacheError if a shard does not have the size that its facts give."""
    expected = facts.shape[0] * facts.row_bytes + len(shard_tail(facts))
    if found != expected:
        raise CacheError(f"{where} has another size", expected=expected, found=f"{found} bytes", hint=REPAIR)


def shard_name(facts: ArrayFacts) -> str:
    """File name of an array's only shard, in Zarr's chunk-key encoding with dots."""
    return ".".join(["c", *("0" for _ in facts.shape)])


def shard_tail(facts: ArrayFacts) -> bytes:
    """The bytes after the rows: padding of the last chunk, (offset, length) of every chunk, crc32c of that index."""
    lengths = np.full(facts.chunks, facts.chunk_bytes, "<u8")
    index = np.stack([np.cumsum(lengths, dtype="<u8") - lengths, lengths], axis=1).tobytes()
    missing = facts.chunks * facts.chunk_bytes - facts.shape[0] * facts.row_bytes
    return bytes(missing) + index + crc32c(index).to_bytes(4, "little")


def array_document(name: str, facts: ArrayFacts) -> bytes:
    """zarr.json of an array, validated and serialised by the Zarr library. Its one shard holds only whole chunks.

    The metadata class is called directly: it takes 0.4 ms, while `zarr.create_array` takes 5 ms, most of the time of a
    small unit.
    """
    from zarr.core.metadata import ArrayV3Metadata  # imported here: it takes half a second, and readers do not need it

    plain: dict[str, Any] = {"name": "bytes"}
    little = {**plain, "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": [facts.rows_per_chunk, *facts.shape[1:]],
        "codecs": [little if facts.dtype.itemsize > 1 else plain],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    shard = [max(1, facts.chunks) * facts.rows_per_chunk, *facts.shape[1:]]
    content = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(facts.shape),
        "data_type": facts.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": np.zeros((), facts.dtype).item(),
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": dict(facts.attributes),
        "dimension_names": dimension_names(name, facts),
    }
    return _rendered(ArrayV3Metadata.from_dict(content))


def group_document(attributes: dict[str, Any]) -> bytes:
    """zarr.json of a unit."""
    from zarr.core.group import GroupMetadata

    return _rendered(GroupMetadata(attributes=attributes, zarr_format=3))


def _rendered(metadata: Any) -> bytes:
    from zarr.core.buffer import default_buffer_prototype

    return metadata.to_buffer_dict(default_buffer_prototype())[DOCUMENT].to_bytes()


AXES = {4: ("y", "x", "channel"), 3: ("cell", "channel"), 2: ("channel",)}


def dimension_names(name: str, facts: ArrayFacts) -> list[str]:
    """Names of an array's axes for xarray, which requires equal lengths for equal names within a unit.

    Arrays with the same rows, such as frames, share the name of their first axis.
    """
    rows, axes = facts.attributes.get(ROWS), len(facts.shape)
    if rows is None or axes not in AXES:
        return [f"{name}_{axis}" for axis in range(axes)]
    return [rows, *(f"{name}_{axis}" for axis in AXES[axes])]
