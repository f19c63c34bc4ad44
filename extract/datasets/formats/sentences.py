"""The table of sentences (``--sentences``): a sentence, its video, its object and its moment in each row. See
docs/datasets.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ....cache.schema import Span
from ....errors import UsageError
from .model import Track
from .presence import Presence
from .text_table import Row, read_table, write_table

BLANK = "sentences.csv"
"""What the table is called where we write it."""
REQUIRED = ("video", "track", "sentence")
OPTIONAL = ("start", "end", "split", "type", "id", "label", "clip_start", "clip_end")
SPLIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
SPLIT_EXPECTED = "letters, digits, hyphens and underscores, as it becomes the name of a file"


@dataclass(frozen=True)
class SentenceEntry:
    """One sentence that is to become a sample."""

    where: str
    """Its name in messages."""
    video: str
    track: str
    sentence: str
    moment: Span | None = None
    """In frames of the video file; None: while the object is there."""
    split: str | None = None
    qtype: str | None = None
    sample_id: str | None = None
    segment: Span | None = None
    row: Row | None = None


def read_sentences(file: Path) -> list[SentenceEntry]:
    """Raises AnnotationError naming line and column. A row without a sentence is kept, with an empty one."""
    return [_entry(row) for row in read_table(file, REQUIRED, OPTIONAL)]


def require_split_name(name: str) -> None:
    """Raises UsageError for what cannot be the name of a file."""
    if not SPLIT.fullmatch(name):
        raise UsageError(f"{name!r} cannot be the name of a split", expected=SPLIT_EXPECTED)


def _entry(row: Row) -> SentenceEntry:
    split = row.text("split")
    if split and not SPLIT.fullmatch(split):
        raise row.fault("split", "cannot be the name of a split", expected=SPLIT_EXPECTED, found=split)
    return SentenceEntry(
        f"line {row.line}",
        row.required("video"),
        row.required("track"),
        " ".join(row.text("sentence").split()),
        _span(row, "start", "end"),
        split or None,
        row.text("type") or None,
        row.text("id") or None,
        _span(row, "clip_start", "clip_end"),
        row,
    )


def _span(row: Row, start: str, end: str) -> Span | None:
    if not row.text(start) and not row.text(end):
        return None
    for one, other in ((start, end), (end, start)):
        if not row.text(one):
            raise row.fault(one, f"empty, and {other} is not", expected=f"both {start} and {end}, or neither")
    span = row.whole(start), row.whole(end)
    if span[0] >= span[1]:
        found = f"{start} {span[0]}, {end} {span[1]}"
        raise row.fault(end, "not a span of frames", expected=f"{start} < {end}, the end excluded", found=found)
    return span


def own_sentences(tracks: Iterable[Track]) -> list[SentenceEntry]:
    """The sentences that annotations themselves hold."""
    return [SentenceEntry(f"track {t.name} of {t.clip}", t.clip, t.name, t.sentence) for t in tracks if t.sentence]


def write_blank(file: Path, found: Iterable[tuple[str, Presence]], split: str) -> int:
    """Write a table with a row for every presence of every object, and no sentences; returns how many rows.

    ``found``: objects, each with the name of its video.
    """
    columns = ("video", "track", "label", "start", "end", "split", "sentence")
    rows = [(v, p.track.name, p.track.label, *run.span, split, "") for v, p in found for run in p.runs]
    write_table(file, columns, rows)
    return len(rows)
