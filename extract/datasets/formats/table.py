"""The formats of other tools that are imported: a row each. Adding one means a file with a reader, and a row here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

    def read(self, path: Path) -> Source:
        source: Source = resolve_name(self.reader)(path)
        return source


ROWS = (
    Format("cvat", "CVAT's annotations.xml, or a folder of them", "stvg.extract.datasets.formats.cvat:read"),
    Format("label-studio", "Label Studio's JSON export", "stvg.extract.datasets.formats.label_studio:read"),
    Format("mot", "a sequence's folder, a folder of them, or a gt.txt", "stvg.extract.datasets.formats.mot:read"),
    Format("coco-vid", "a JSON file", "stvg.extract.datasets.formats.coco_vid:read"),
    Format("csv", "a table of boxes", "stvg.extract.datasets.formats.box_table:read"),
)
FORMATS = {row.name: row for row in ROWS}
