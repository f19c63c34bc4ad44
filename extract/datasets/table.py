"""The datasets that are read: a row each. What is inside their files is its reader's business, and nobody else's.

Adding one means a file with a reader, and a row here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from ...errors import UsageError

if TYPE_CHECKING:
    from ...cache.schema import Sample
    from .validate import SplitReading


@dataclass(frozen=True)
class Dataset:
    """One dataset. Functions are named, ``package.module:function``, and loaded when they are needed."""

    name: str
    """As in ``--dataset``."""
    reader: str
    """(annotation file, `SplitReading`) → its Samples, in order. Raises AnnotationError, or notes it in the reading."""
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Each split, and what its file is called, with or without .gz. Empty: any NAME.json is the split NAME."""
    folder: str = ""
    """What a folder that holds the annotation files is called, ``annotations`` and ``annos`` aside."""
    box_folders: str | None = None
    """Where boxes lie in files of their own: (annotation path, split, folder given by the user or None) → folders."""
    videos: tuple[str, ...] = ("videos", "video")
    """Where its videos usually lie, seen from its folder."""
    one_of_all: bool = False
    """Whether a video's file name is the only one of that name, so that the folders around it may be missing."""
    sentences: dict[str, int] = field(default_factory=dict)
    """How many sentences each published split has."""
    rate_is_assumed: bool = False
    """The annotations state no frame rate."""
    synthetic: str | None = None
    """Writes a drawn dataset in this format: (folder, `SyntheticConfig`, progress)."""

    def read(self, file: Path, reading: SplitReading) -> list[Sample]:
        function: Callable[[Path, SplitReading], list[Sample]] = resolve_name(self.reader)
        return function(file, reading)

    def find_boxes(self, path: Path, split: str, given: Path | None) -> list[Path]:
        return resolve_name(self.box_folders)(path, split, given) if self.box_folders else []

    def draw(self, *arguments: Any) -> None:
        assert self.synthetic, f"{self.name} is not drawn"
        resolve_name(self.synthetic)(*arguments)


ROWS = (
    Dataset(
        "vidstg",
        reader="stvg.extract.datasets.vidstg:read",
        splits={split: (f"{split}_annotations.json",) for split in ("train", "val", "test")},
        folder="vidstg",
        box_folders="stvg.extract.datasets.vidstg:find_vidor",
        videos=("vidor/video", "vidor/videos", "videos", "video", "../vidor/video"),
        one_of_all=True,
        sentences={"train": 80_684, "val": 8_956, "test": 10_303},
        synthetic="stvg.extract.synthetic.dataset:write_vidstg",
    ),
    Dataset(
        "hcstvg-v1",
        reader="stvg.extract.datasets.hcstvg:read",
        splits={split: (f"{split}.json",) for split in ("train", "test")},
        folder="hcstvg_v1",
        sentences={"train": 4_500, "test": 1_160},
        rate_is_assumed=True,
        synthetic="stvg.extract.synthetic.dataset:write_hcstvg",
    ),
    Dataset(
        "hcstvg-v2",
        reader="stvg.extract.datasets.hcstvg:read",
        splits={s: (f"{s}_v2.json", f"{s}v2.json", f"HCVG_{s}.json") for s in ("train", "val")},
        folder="hcstvg_v2",
        sentences={"train": 10_131, "val": 2_000},
        rate_is_assumed=True,
        synthetic="stvg.extract.synthetic.dataset:write_hcstvg_2",
    ),
    Dataset("json", reader="stvg.extract.datasets.custom:read"),
)
DATASETS = {row.name: row for row in ROWS}


def find(name: str) -> Dataset:
    """Raises UsageError for a dataset that is not there."""
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    return DATASETS[name]


def published_sentences(name: str, split: str) -> int | None:
    """How many sentences a published split has; None where there is no such split.

    Synthetic data, a part of a split, and annotations of one's own come under the same names.
    """
    return DATASETS[name].sentences.get(split) if name in DATASETS else None


def unknown(kind: str, name: str, known: Iterable[str], of: str = "") -> UsageError:
    known = list(known)
    return UsageError(
        f"no {kind} {name!r}" + (f" {of}" if of else ""),
        expected=f"one of {', '.join(known)}",
        hint=nearest(name, known),
    )


def nearest(name: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(name.lower(), list(known), 1, cutoff=0.4)
    return f"{close[0]}?" if close else None
