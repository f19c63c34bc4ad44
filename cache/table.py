"""The table of an annotation set: one row per sentence, with all annotations for extraction, training and scoring.

The table is kept in columns, and a row is converted to a Sample on access. Boxes take most of the file. They are read
when the first Sample is created.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from awscrt.checksums import crc32c
from numpy.typing import NDArray

from ..errors import CacheError
from ..objects import Location, ObjectPath
from .schema import Sample, Video, has_boxes

if TYPE_CHECKING:
    import pandas

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("integer_id", pa.bool_()),
        ("video_id", pa.string()),
        ("path", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.float64()),
        ("frame_count", pa.int64()),
        ("sentence", pa.string()),
        ("qtype", pa.string()),
        ("split", pa.string()),
        ("segment_start", pa.int64()),
        ("segment_end", pa.int64()),
        ("moment_start", pa.int64()),
        ("moment_end", pa.int64()),
        ("target_id", pa.string()),
        ("baseline_shift", pa.int32()),
        ("gaps", pa.int64()),  # frames of the moment without a box
        ("boxes", pa.list_(pa.float64())),  # stored as float32 if all values are exact in it
    ]
)
COLUMNS = tuple(f.name for f in SCHEMA if f.name not in ("gaps", "boxes"))
"""Annotated columns, without the boxes."""
ROW_GROUP = 8192
RESTORE = "restore the file, or: stvg cache verify --repair, then repeat the extraction; finished videos are kept"


def to_parquet(samples: Sequence[Sample]) -> bytes:
    """The table as the bytes of a Parquet file. Equal samples give equal bytes."""
    rows = [
        {
            "sample_id": str(s.sample_id),
            "integer_id": isinstance(s.sample_id, int),
            "video_id": s.video.video_id,
            "path": s.video.path,
            "width": s.video.width,
            "height": s.video.height,
            "fps": s.video.fps,
            "frame_count": s.video.frame_count,
            "sentence": s.sentence,
            "qtype": s.qtype,
            "split": s.split,
            "segment_start": s.segment[0],
            "segment_end": s.segment[1],
            "moment_start": s.moment[0],
            "moment_end": s.moment[1],
            "target_id": s.target_id,
            "baseline_shift": s.baseline_shift,
            "gaps": int((~has_boxes(s.boxes)).sum()),
        }
        for s in samples
    ]
    columns = pa.Table.from_pylist(rows, schema=pa.schema([f for f in SCHEMA if f.name != "boxes"]))
    flat = np.concatenate([np.empty(0), *(s.boxes.reshape(-1) for s in samples)])
    narrow = flat.astype(np.float32)
    values = narrow if np.array_equal(narrow, flat, equal_nan=True) else flat
    offsets = np.cumsum([0, *(s.boxes.size for s in samples)], dtype=np.int32)
    boxes = pa.ListArray.from_arrays(_column(offsets), _column(values))
    buffer = io.BytesIO()
    table = columns.append_column("boxes", boxes)
    pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP)
    return buffer.getvalue()


class SampleTable(Sequence[Sample]):
    """The samples of an annotation set, in table order.

    An open table stays readable if its file is replaced or removed.
    """

    def __init__(
        self, place: Location | str, stored: bytes | None = None, expected: tuple[int, int] | None = None
    ) -> None:
        """``stored``: content of the file; None reads it from ``place``.

        ``expected``: its size in bytes, and its crc32c.
        """
        self.place, self.stored, self.expected = place, stored, expected
        self._file = _opened(place) if stored is None else pa.BufferReader(stored)
        found = checksum(self._file)
        if expected is not None and found != tuple(expected):
            raise CacheError(
                f"{place} is damaged",
                expected=f"{expected[0]:,} bytes, crc32c {expected[1]:08x}",
                found=f"{found[0]:,} bytes, {found[1]:08x}",
                hint=RESTORE,
            )
        table = self._read([f.name for f in SCHEMA if f.name != "boxes"])
        self.splits: list[str] = _shared_texts(table["split"])
        self.video_ids: list[str] = _shared_texts(table["video_id"])
        # Numbers become NumPy columns, texts stay in Arrow: a row takes microseconds, and opening copies nothing.
        self.columns: dict[str, Any] = {
            f.name: table[f.name].combine_chunks() if pa.types.is_string(f.type) else _numbers(table[f.name])
            for f in SCHEMA
            if f.name != "boxes"
        }
        self._videos: dict[str, Video] = {}

    @classmethod
    def of(cls, samples: Sequence[Sample], name: str = "samples") -> SampleTable:
        """A table in memory. ``name``: its name in error messages."""
        return cls(name, to_parquet(samples))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.place, self.stored, self.expected)

    def __len__(self) -> int:
        return len(self.columns["fps"])

    def to_bytes(self) -> bytes:
        """The content of the Parquet file."""
        if self.stored is None:
            self._file.seek(0)
            return self._file.read()
        return self.stored

    def _read(self, columns: list[str]) -> pa.Table:
        with self._opened() as file:
            return file.read(columns)

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        try:
            yield pq.ParquetFile(self._file)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise CacheError(f"{self.place} cannot be read", found=str(error).splitlines()[0], hint=RESTORE) from None

    @cached_property
    def boxes(self) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Start of each sample's coordinates (N + 1,), and all coordinates concatenated (4 · number of boxes,)."""
        lengths, values = [np.zeros(1, np.int64)], []
        with self._opened() as file:
            for some in file.iter_batches(ROW_GROUP, columns=["boxes"]):  # ten times as fast as a single read
                offsets = _numbers(some["boxes"].offsets)
                lengths.append(np.diff(offsets))
                values.append(_numbers(some["boxes"].values)[offsets[0] : offsets[-1]])
        found = np.cumsum(np.concatenate(lengths)), np.concatenate(values or [np.empty(0)])
        values.clear()
        pa.default_memory_pool().release_unused()
        return found

    def sentence(self, i: int) -> str:
        return self.columns["sentence"][i].as_py()

    def sentences(self) -> list[str]:
        """Distinct sentences, in order of first appearance."""
        return self.columns["sentence"].dictionary_encode().dictionary.to_pylist()

    def to_frame(self, split: str | None = None) -> pandas.DataFrame:
        """A DataFrame with one row per sample of a split, or of all splits.

        ``boxes`` holds arrays (frames of the moment, 4) of xyxy source pixels. Raises CacheError for an unknown split.
        """
        import pandas

        if split is not None and split not in {*self.splits}:
            raise CacheError(f"{self.place} has no split {split!r}", found=", ".join(sorted({*self.splits})))
        rows = [i for i, of in enumerate(self.splits) if split in (None, of)]
        columns = [name for name in COLUMNS if name not in ("integer_id", "baseline_shift")]
        offsets, values = self.boxes
        index = np.array(rows, dtype=np.int64)
        found: dict[str, Any] = {}
        for name in columns:
            column = self.columns[name]
            found[name] = column.take(_column(index)).to_pylist() if isinstance(column, pa.Array) else column[index]
        found["sample_id"] = [self.sample_id(i) for i in rows]
        found["boxes"] = [values[offsets[i] : offsets[i + 1]].reshape(-1, 4) for i in rows]
        return pandas.DataFrame(found)

    @cached_property
    def rows_of_videos(self) -> dict[str, list[int]]:
        """By video id: the table rows of its samples."""
        found: dict[str, list[int]] = {}
        for row, video_id in enumerate(self.video_ids):
            found.setdefault(video_id, []).append(row)
        return found

    def sample_id(self, i: int) -> int | str:
        text: str = self.columns["sample_id"][i].as_py()
        return int(text) if self.columns["integer_id"][i] else text

    def video(self, i: int) -> Video:
        """The video of a sample. Samples of one video share the object."""
        video = self._videos.get(self.video_ids[i])
        if video is None:
            columns = self.columns
            texts = (self.video_ids[i], columns["path"][i].as_py())
            facts = (columns[name][i].item() for name in ("width", "height", "fps", "frame_count"))
            video = self._videos.setdefault(self.video_ids[i], Video(*texts, *facts))
        return video

    def contents(self, rows: Sequence[int], names: Sequence[str]) -> Iterator[bytes]:
        """For each row, its columns ``names`` and its boxes as bytes. Equal values give equal bytes."""
        index = np.asarray(rows, dtype=np.int64)
        columns = (self.columns[name] for name in names)
        chosen = [
            (c.take(_column(index)).to_pylist() if isinstance(c, pa.Array) else c[index].tolist()) for c in columns
        ]
        offsets, values = self.boxes
        for i, facts in zip(index.tolist(), zip(*chosen, strict=True), strict=True):
            boxes = values[offsets[i] : offsets[i + 1]].astype("<f8")
            yield repr(facts).encode(errors="surrogatepass") + boxes.tobytes()

    def __getitem__(self, i):  # type: ignore[no-untyped-def]  # integers only; Sequence also declares slices
        if not 0 <= i < len(self):
            raise IndexError(i)
        row: dict[str, Any] = {
            k: c[i].as_py() if isinstance(c, pa.Array) else c[i].item() for k, c in self.columns.items()
        }
        offsets, values = self.boxes
        return Sample(
            sample_id=self.sample_id(i),
            video=self.video(i),
            sentence=row["sentence"],
            qtype=row["qtype"],
            split=row["split"],
            segment=(row["segment_start"], row["segment_end"]),
            moment=(row["moment_start"], row["moment_end"]),
            boxes=values[offsets[i] : offsets[i + 1]].astype(np.float64).reshape(-1, 4),
            target_id=row["target_id"],
            baseline_shift=row["baseline_shift"],
        )


def _shared_texts(column: pa.ChunkedArray) -> list[str]:
    """A text column as a list that shares equal strings in memory."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.array(encoded.dictionary.to_pylist(), dtype=object)[_numbers(encoded.indices)].tolist()


def _numbers(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """A column as a NumPy array without a copy. `to_numpy` of Arrow would import pandas, which is slow."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.from_dlpack(array.cast(pa.uint8()) if pa.types.is_boolean(array.type) else array)


def _column(values: NDArray[Any]) -> pa.Array:
    """An array of numbers as an Arrow column. `pa.array` would import pandas."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def _opened(place: Location | str) -> pa.NativeFile:
    try:
        if isinstance(place, ObjectPath):
            return pa.BufferReader(place.read_bytes())
        return pa.OSFile(str(place))
    except FileNotFoundError:
        raise CacheError(f"{place} is missing", hint=RESTORE) from None
    except OSError as error:
        raise CacheError(f"{place} cannot be read", found=error) from None


def checksum(file: pa.NativeFile | bytes) -> tuple[int, int]:
    """Size in bytes and crc32c of a file, read in blocks."""
    if isinstance(file, bytes):
        return len(file), crc32c(file)
    file.seek(0)
    size = total = 0
    while block := file.read(1 << 20):
        size, total = size + len(block), crc32c(block, total)
    return size, total
