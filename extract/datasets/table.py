"""The supported datasets, one row each. Only a dataset's reader knows the content of its files.

A new dataset needs a file with its reader, and a row here.
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
    """One dataset. Functions are given by name, ``package.module:function``, and imported when they are needed."""

    name: str
    """Name, as in ``--dataset``."""
    reader: str
    """(annotation file, `SplitReading`) → its Samples, in order. Raises AnnotationError, or adds it to the reading."""
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """File names of each split, with or without .gz. Empty: any NAME.json is the split NAME."""
    folder: str = ""
    """Name of a folder that holds the annotation files, in addition to ``annotations`` and ``annos``."""
    box_folders: str | None = None
    """Finds the folders of separate box files: (annotation path, split, folder given by the user or None) → folders."""
    videos: tuple[str, ...] = ("videos", "video")
    """Usual folders of its videos, relative to its own folder."""
    one_of_all: bool = False
    """Whether video file names are unique in the dataset, so that the folders around a file may be missing."""
    sentences: dict[str, int] = field(default_factory=dict)
    """Number of sentences of each published split."""
    rate_is_assumed: bool = False
    """Whether the annotations state no frame rate."""
    synthetic: str | None = None
    """Writes a synthetic dataset in this format: (folder, `SyntheticConfig`, progress)."""

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
    """The dataset of this name. Raises UsageError for an unknown name."""
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    return DATASETS[name]


def published_sentences(name: str, split: str) -> int | None:
    """Number of sentences of a published split; None if there is no such split.

    Synthetic data, parts of a split, and users' own annotations may have the same names, but other numbers of
    sentences.
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
