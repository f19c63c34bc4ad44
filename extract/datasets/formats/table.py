"""The formats of other tools: a row each. Adding one means a file with a reader, and a row here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .exporting import ExportedVideo
    from .model import Source


@dataclass(frozen=True)
class Format:
    """One format. Functions are named, ``package.module:function``, and loaded when they are needed."""

    name: str
    """As in ``--format``."""
    holds: str
    """What the path names, in words."""
    reader: str
    """(path) → its `Source`. Raises AnnotationError and UsageError."""
    writer: str = ""
    """(folder, the videos with their boxes) → what it wrote. Empty: it is not exported."""

    def read(self, path: Path) -> Source:
        source: Source = resolve_name(self.reader)(path)
        return source

    def write(self, out: Path, videos: Sequence[ExportedVideo]) -> Path:
        assert self.writer, f"{self.name} is not exported"
        written: Path = resolve_name(self.writer)(out, videos)
        return written


ROWS = (
    Format("cvat", "CVAT's annotations.xml, or a folder of them", "stvg.extract.datasets.formats.cvat:read"),
    Format("label-studio", "Label Studio's JSON export", "stvg.extract.datasets.formats.label_studio:read"),
    Format(
        "mot",
        "a sequence's folder, a folder of them, or a gt.txt",
        reader="stvg.extract.datasets.formats.mot:read",
        writer="stvg.extract.datasets.formats.writers:write_mot",
    ),
    Format(
        "coco-vid",
        "a JSON file, or a folder with one",
        reader="stvg.extract.datasets.formats.coco_vid:read",
        writer="stvg.extract.datasets.formats.writers:write_coco_vid",
    ),
    Format("csv", "a table of boxes", "stvg.extract.datasets.formats.box_table:read"),
)
FORMATS = {row.name: row for row in ROWS}
EXPORTED = {name: row for name, row in FORMATS.items() if row.writer}
