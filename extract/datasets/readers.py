"""Read a dataset's annotations: from its name and folder to Samples.

table.py lists the datasets, folders.py finds their files, and vidstg.py, hcstvg.py and custom.py read them. All special
cases of a dataset are handled in its reader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...cache.sampling import Sampling
from ...cache.schema import Sample
from ...errors import AnnotationError, UsageError
from ...wording import counted
from .folders import annotation_file
from .table import find, published_sentences
from .validate import SplitReading, some


@dataclass(frozen=True)
class Annotations:
    """Content of one split's annotation files."""

    dataset: str
    split: str
    samples: list[Sample]
    """All samples, in the order of the file."""
    sha256: str
    """Digest of the unpacked content of all files that were read. It does not depend on their location."""
    dropped: list[AnnotationError]
    """With ``on_bad_record="skip"``: the first fault of every record that was left out."""
    warnings: list[str]
    records: int
    """Number of records in the file, valid or not."""
    captions_first: list[int] = field(default_factory=list)
    """VidSTG: the sample_id at each position when a record's captions are numbered before its questions; else empty."""
    doubts: list[str] = field(default_factory=list)
    """Those of the warnings that say that boxes are likely to be misread."""


def read_annotations(
    dataset: str,
    path: Path,
    split: str,
    *,
    sampling: Sampling | None = None,
    on_bad_record: str = "raise",
    for_scoring: bool = False,
    vidor: Path | None = None,
    boxes: bool = True,
) -> Annotations:
    """Read and check one split of a dataset.

    ``path``: the dataset's folder, or the annotation file itself. ``vidor``: the folder of VidSTG's boxes, which holds
    annotation/ or training/; without it, they are searched in and beside ``path``. ``sampling``: boxes must exist at
    the frames it selects. ``for_scoring``: check only what scoring needs, and accept moments outside their segment.
    ``boxes=False``: VidSTG's sentences without VidOR; all boxes are NaN.

    Raises UsageError for a name or a folder that does not exist, AnnotationError for the first fault in a file. With
    ``on_bad_record="skip"``, faulty records are dropped and listed instead.
    """
    if on_bad_record not in ("raise", "skip"):
        raise UsageError(f"on_bad_record cannot be {on_bad_record!r}", expected="raise or skip")
    if any("\ud800" <= letter <= "\udfff" for letter in split):  # bytes that are not UTF-8
        raise UsageError(f"the split {split!r} has a name that is not UTF-8", hint="rename its file")
    row, file = find(dataset), annotation_file(dataset, path, split)
    reading = SplitReading(split, sampling or Sampling(), on_bad_record == "skip", for_scoring, boxes)
    if boxes:
        reading.box_folders = row.find_boxes(path, split, vidor)
    samples = row.read(file, reading)
    content = hashlib.sha256("".join(sorted(reading.digests)).encode()).hexdigest()
    doubts = list(reading.units.doubts())
    warnings = [*doubts, *reading.warnings, *_warnings(dataset, samples, reading)]
    kept = reading.captions_first
    return Annotations(dataset, split, samples, content, reading.dropped, warnings, reading.records, kept, doubts)


def _warnings(dataset: str, samples: list[Sample], reading: SplitReading) -> Iterator[str]:
    published = published_sentences(dataset, reading.split)
    if published is not None and len(samples) != published:
        yield f"{counted(len(samples), 'sentence')} in {dataset} {reading.split}; the published split has {published:,}"
    if reading.unseen:
        yield (
            f"{counted(len(reading.unseen), 'training sample')} left out: no sampled frame falls into their moment "
            f"({some(reading.unseen)})"
        )
    leaving = [reading.leaving[s.sample_id] for s in samples if s.sample_id in reading.leaving]
    if leaving:
        yield (
            f"{counted(sum(leaving), 'box', 'boxes')} of {counted(len(leaving), 'sample')} reach beyond the picture; "
            "training clamps them, scoring takes them as its protocol says"
        )
