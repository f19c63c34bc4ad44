"""samples.parquet: one row per sentence, written once and atomically; what training and scoring need of the annotation.

Samples are read back lazily: the table stays in Arrow columns, and a row becomes a Sample when it is asked for.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .atomic import write_atomic
from .errors import CacheError
from .schema import Sample, Video

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
        ("text_row", pa.int64()),
        ("qtype", pa.string()),
        ("split", pa.string()),
        ("segment_start", pa.int64()),
        ("segment_end", pa.int64()),
        ("moment_start", pa.int64()),
        ("moment_end", pa.int64()),
        ("target_id", pa.string()),
        ("baseline_shift", pa.int32()),
        ("boxes", pa.list_(pa.float64())),
    ]
)


def distinct_sentences(samples: Sequence[Sample]) -> dict[str, int]:
    """Every different sentence and its row in the text features, in order of first appearance."""
    rows: dict[str, int] = {}
    for sample in samples:
        rows.setdefault(sample.sentence, len(rows))
    return rows


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Write the table; a reader sees all of it or nothing."""
    text_rows = distinct_sentences(samples)
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
            "text_row": text_rows[s.sentence],
            "qtype": s.qtype,
            "split": s.split,
            "segment_start": s.segment[0],
            "segment_end": s.segment[1],
            "moment_start": s.moment[0],
            "moment_end": s.moment[1],
            "target_id": s.target_id,
            "baseline_shift": s.baseline_shift,
            "boxes": s.boxes.reshape(-1),
        }
        for s in samples
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


class SampleTable(Sequence[Sample]):
    """The samples of a cache in the order they were written."""

    def __init__(self, path: Path) -> None:
        try:
            self._table = pq.read_table(path, schema=SCHEMA)
        except FileNotFoundError:
            raise CacheError(f"{path} is missing", hint="repeat the extraction; finished videos are kept") from None
        except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
            raise CacheError(f"{path} cannot be read", found=str(error).splitlines()[0]) from None
        table = self._table.combine_chunks()
        self.splits: list[str] = table["split"].to_pylist()
        self.video_ids: list[str] = table["video_id"].to_pylist()
        self.text_rows = table["text_row"].to_numpy()
        boxes = table["boxes"].combine_chunks()
        self._offsets, self._boxes = boxes.offsets.to_numpy(), boxes.values.to_numpy()
        # Numbers as numpy columns, text as Arrow scalars: a row costs microseconds, and nothing is copied up front.
        self._columns: dict[str, Any] = {
            f.name: table[f.name].combine_chunks() if pa.types.is_string(f.type) else table[f.name].to_numpy()
            for f in SCHEMA
            if f.name != "boxes"
        }
        self._videos: dict[str, Video] = {}

    def __len__(self) -> int:
        return self._table.num_rows

    @cached_property
    def _first_rows(self) -> NDArray[np.int64]:
        """For every distinct sentence, a sample that has it."""
        return np.unique(self.text_rows, return_index=True)[1]

    @property
    def text_count(self) -> int:
        """How many distinct sentences there are: text rows 0 … text_count - 1."""
        return len(self._first_rows)

    def sentence(self, text_row: int) -> str:
        """The sentence behind a row of the text features."""
        return self._columns["sentence"][int(self._first_rows[text_row])].as_py()

    def __getitem__(self, i):  # type: ignore[no-untyped-def]  # only whole numbers; Sequence also promises slices
        if not 0 <= i < len(self):
            raise IndexError(i)
        row: dict[str, Any] = {
            k: c[i].as_py() if isinstance(c, pa.Array) else c[i].item() for k, c in self._columns.items()
        }
        video = self._videos.get(row["video_id"])
        if video is None:
            facts = (row[k] for k in ("video_id", "path", "width", "height", "fps", "frame_count"))
            video = self._videos.setdefault(row["video_id"], Video(*facts))
        return Sample(
            sample_id=int(row["sample_id"]) if row["integer_id"] else row["sample_id"],
            video=video,
            sentence=row["sentence"],
            qtype=row["qtype"],
            split=row["split"],
            segment=(row["segment_start"], row["segment_end"]),
            moment=(row["moment_start"], row["moment_end"]),
            boxes=self._boxes[self._offsets[i] : self._offsets[i + 1]].reshape(-1, 4),
            target_id=row["target_id"],
            baseline_shift=row["baseline_shift"],
        )
