"""The search for a dataset's files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...errors import UsageError
from .table import DATASETS, Dataset, find, nearest, unknown

LEVELS = ("annotations", "annotation", "annos")
"""Names of folders that hold annotation files inside a dataset's folder, in addition to the dataset's own name."""


def annotation_file(dataset: str, path: Path, split: str) -> Path:
    """The annotation file of one split. Raises UsageError if there is no such dataset, split or file."""
    row = find(dataset)
    splits = row.splits
    if splits and split not in splits:
        raise unknown("split", split, splits, f"of {dataset}")
    names = splits.get(split, (f"{split}.json",))
    if os.path.isfile(path):
        named = _splits_named(row, path.name)
        other = [s for s in named if s != split]
        if splits and other and split not in named:
            raise UsageError(f"{path} holds the split {other[0]!r}, not {split!r}", hint=f"--split {other[0]}")
        return path
    if not os.path.isdir(path):
        raise UsageError(f"{path} does not exist", expected=f"the folder of {dataset}, or its annotation file")
    folders = list(_annotation_folders(row, path))
    for folder in folders:
        for name in names:
            for file in (folder / name, folder / f"{name}.gz"):
                if os.path.isfile(file):
                    return file
    there = find_splits(dataset, path, required=False)
    raise UsageError(
        f"no annotations of split {split!r} of {dataset} in {path}",
        expected=" or ".join(names) + ", or with .gz",
        looked_in=listed(folders),
        found=f"the splits {', '.join(there)}" if there else "no split of this dataset",
        hint=nearest(split, there) or "give the annotation file itself as the path",
    )


def find_splits(dataset: str, path: Path, *, required: bool = True) -> list[str]:
    """The splits whose annotation files exist. Raises UsageError if there is none and ``required`` is set."""
    row = find(dataset)
    if os.path.isfile(path):
        found = _splits_named(row, path.name)
    else:
        names = {
            file.name
            for folder in _annotation_folders(row, path)
            for file in _listing(folder)
            if os.path.isfile(file) and not file.name.startswith(".")
        }
        there = {split for name in names for split in _splits_named(row, name)}
        order = list(row.splits) or ["train", "val", "test"]
        found = sorted(there, key=lambda s: (order.index(s) if s in order else len(order), s))
    if required and not found:
        known = [name for names in row.splits.values() for name in names] or ["train.json", "val.json"]
        raise UsageError(
            f"no split of {dataset} found at {path}",
            expected=f"files called {', '.join(known)}",
            hint="name the split, and give the annotation file itself as the path",
        )
    return found


def _listing(folder: Path) -> list[Path]:
    """The content of a folder; empty if it does not exist. Raises UsageError for a folder that cannot be read."""
    try:
        return sorted(folder.iterdir()) if os.path.isdir(folder) else []
    except OSError as error:
        raise UsageError(f"{folder} cannot be read", found=error.strerror) from None


def _splits_named(row: Dataset, name: str) -> list[str]:
    """The split that a file of this name holds, in a list; empty if the name is of no split."""
    plain = name.removesuffix(".gz")
    if not row.splits:
        return [plain.removesuffix(".json")] if plain.endswith(".json") else []
    return [split for split, names in row.splits.items() if plain in names]


def _annotation_folders(row: Dataset, path: Path) -> Iterator[Path]:
    if not row.splits:
        # Only one of the two folders, because any .json in it counts as a split.
        yield path / "annotations" if os.path.isdir(path / "annotations") else path
        return
    for level in (Path(), Path("annotations"), Path("annos")):
        yield path / level
        yield path / level / row.folder
    yield path / row.folder / "annotations"


def default_video_folder(dataset: str, path: Path) -> Path:
    """The existing folder with a dataset's videos, searched from ``path``. Raises UsageError if there is none."""
    names = find(dataset).videos
    candidates = [Path(os.path.normpath(root / name)) for root in roots(path) for name in names]
    for folder in candidates:
        if os.path.isdir(folder):
            return folder
    raise UsageError(
        f"no folder of videos near {path}",
        looked_in=listed(candidates),
        hint="--videos DIR",
    )


def roots(path: Path) -> Iterator[Path]:
    """``path``, and the parent folders that may be the dataset's folder."""
    folder = Path(os.path.abspath(path if os.path.isdir(path) else path.parent))
    yield folder
    inner = {*LEVELS, *(row.folder for row in DATASETS.values() if row.folder)}
    while folder.name in inner and folder != folder.parent:
        folder = folder.parent
        yield folder


def listed(folders: Iterable[Path]) -> str:
    return ", ".join(dict.fromkeys(str(folder) for folder in folders))
