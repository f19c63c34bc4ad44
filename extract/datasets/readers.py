"""From a dataset's name and folder to Samples. Every dataset oddity ends in this room's reader files.

Here: which files make up a dataset and where they are looked for. What is inside: vidstg.py, hcstvg.py, custom.py.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...cache.sampling import Sampling
from ...cache.schema import Sample
from ...cache.splits import PUBLISHED_SENTENCES
from ...errors import AnnotationError, UsageError
from ...wording import counted
from . import custom, hcstvg, vidstg
from .validate import Reading, some

DATASETS = ("vidstg", "hcstvg-v1", "hcstvg-v2", "json")

SPLITS: dict[str, dict[str, tuple[str, ...]]] = {
    "vidstg": {split: (f"{split}_annotations.json",) for split in ("train", "val", "test")},
    "hcstvg-v1": {split: (f"{split}.json",) for split in ("train", "test")},
    "hcstvg-v2": {split: (f"{split}_v2.json", f"{split}v2.json", f"HCVG_{split}.json") for split in ("train", "val")},
    "json": {},
}
"""The splits of each dataset and what their files are called, with or without .gz. ``json``: any name."""

LEVELS = {"annotations", "annotation", "annos", "vidstg", "hcstvg_v1", "hcstvg_v2"}
"""Folders inside a dataset's folder that hold annotation files; the dataset's folder is above them."""


@dataclass(frozen=True)
class Annotations:
    """What one split's annotation files say."""

    dataset: str
    split: str
    samples: list[Sample]
    """In the order of the file."""
    sha256: str
    """Of the content of all files that were read, unpacked; does not depend on where they lie."""
    dropped: list[AnnotationError]
    """With ``on_bad_record="skip"``: the first fault of every record that was left out."""
    warnings: list[str]
    records: int
    """Records in the file, good or bad."""
    captions_first: list[int] = field(default_factory=list)
    """VidSTG: the sample_id at each place when a record's captions are counted before its questions; else empty."""
    doubts: list[str] = field(default_factory=list)
    """Of the warnings those that say that boxes are likely to be read wrongly."""


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

    ``path``: the dataset's folder, or the annotation file itself. ``vidor``: where VidSTG's boxes lie, the folder that
    holds annotation/ or training/; looked for in and beside ``path`` otherwise. ``sampling``: boxes must exist at the
    frames it picks. ``for_scoring``: check only what scoring needs, and take moments outside their segment.
    ``boxes=False``: VidSTG's sentences without VidOR, all boxes NaN.

    Raises UsageError for a name or a folder that does not exist, AnnotationError for the first fault in a file; with
    ``on_bad_record="skip"`` faulty records are dropped and listed instead.
    """
    if on_bad_record not in ("raise", "skip"):
        raise UsageError(f"on_bad_record cannot be {on_bad_record!r}", expected="raise or skip")
    if any("\ud800" <= letter <= "\udfff" for letter in split):  # how Python spells the bytes of such a name
        raise UsageError(f"the split {split!r} has a name that is not UTF-8", hint="rename its file")
    file = annotation_file(dataset, path, split)
    reading = Reading(split, sampling or Sampling(), on_bad_record == "skip", for_scoring, boxes)
    if dataset == "vidstg":
        folders = find_vidor(path, split, vidor) if boxes else []
        samples = vidstg.read(file, folders, reading)
    elif dataset == "json":
        samples = custom.read(file, reading)
    else:
        samples = hcstvg.read(file, reading)
    content = hashlib.sha256("".join(sorted(reading.digests)).encode()).hexdigest()
    doubts = list(reading.units.doubts())
    warnings = [*doubts, *reading.warnings, *_warnings(dataset, samples, reading)]
    counted = reading.captions_first if dataset == "vidstg" else []
    return Annotations(dataset, split, samples, content, reading.dropped, warnings, reading.records, counted, doubts)


def _warnings(dataset: str, samples: list[Sample], reading: Reading) -> Iterator[str]:
    published = PUBLISHED_SENTENCES.get((dataset, reading.split))
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


def annotation_file(dataset: str, path: Path, split: str) -> Path:
    """The file of one split. Raises UsageError when there is no such dataset, split or file."""
    _require_dataset(dataset)
    splits = SPLITS[dataset]
    if splits and split not in splits:
        raise _unknown("split", split, splits, f"of {dataset}")
    names = splits.get(split, (f"{split}.json",))
    if os.path.isfile(path):
        other = [s for s in _splits_named(dataset, path.name) if s != split]
        if splits and other and split not in _splits_named(dataset, path.name):
            raise UsageError(f"{path} holds the split {other[0]!r}, not {split!r}", hint=f"--split {other[0]}")
        return path
    if not os.path.isdir(path):
        raise UsageError(f"{path} does not exist", expected=f"the folder of {dataset}, or its annotation file")
    folders = list(_annotation_folders(dataset, path))
    for folder in folders:
        for name in names:
            for file in (folder / name, folder / f"{name}.gz"):
                if os.path.isfile(file):
                    return file
    there = find_splits(dataset, path, required=False)
    raise UsageError(
        f"no annotations of split {split!r} of {dataset} in {path}",
        expected=" or ".join(names) + ", or with .gz",
        looked_in=_listed(folders),
        found=f"the splits {', '.join(there)}" if there else "no split of this dataset",
        hint=_nearest(split, there) or "give the annotation file itself as the path",
    )


def find_splits(dataset: str, path: Path, *, required: bool = True) -> list[str]:
    """The splits whose annotation files are there. Raises UsageError when none is, if one is ``required``."""
    _require_dataset(dataset)
    if os.path.isfile(path):
        found = _splits_named(dataset, path.name)
    else:
        names = {
            file.name
            for folder in _annotation_folders(dataset, path)
            for file in _listing(folder)
            if os.path.isfile(file) and not file.name.startswith(".")
        }
        there = {split for name in names for split in _splits_named(dataset, name)}
        order = list(SPLITS[dataset]) or ["train", "val", "test"]
        found = sorted(there, key=lambda s: (order.index(s) if s in order else len(order), s))
    if required and not found:
        known = [name for names in SPLITS[dataset].values() for name in names] or ["train.json", "val.json"]
        raise UsageError(
            f"no split of {dataset} found at {path}",
            expected=f"files called {', '.join(known)}",
            hint="name the split, and give the annotation file itself as the path",
        )
    return found


def _listing(folder: Path) -> list[Path]:
    """What a folder holds; nothing where there is none. Raises UsageError for one that cannot be read."""
    try:
        return sorted(folder.iterdir()) if os.path.isdir(folder) else []
    except OSError as error:
        raise UsageError(f"{folder} cannot be read", found=error.strerror) from None


def _splits_named(dataset: str, name: str) -> list[str]:
    """The split that a file of this name holds, if it is one."""
    plain = name.removesuffix(".gz")
    if dataset == "json":
        return [plain.removesuffix(".json")] if plain.endswith(".json") else []
    return [split for split, names in SPLITS[dataset].items() if plain in names]


def _annotation_folders(dataset: str, path: Path) -> Iterator[Path]:
    if dataset == "json":
        # One of the two, since any .json in it is taken for a split.
        yield path / "annotations" if os.path.isdir(path / "annotations") else path
        return
    own = "vidstg" if dataset == "vidstg" else dataset.replace("-", "_")
    for level in (Path(), Path("annotations"), Path("annos")):
        yield path / level
        yield path / level / own
    yield path / own / "annotations"


def find_vidor(path: Path, split: str, vidor: Path | None = None) -> list[Path]:
    """The folder with VidOR's box files for a VidSTG split, in a list. Raises UsageError."""
    part = vidstg.VIDOR_PART[split]
    bases = [vidor] if vidor else [b for root in _roots(path) for b in (root / "vidor", root, root.parent / "vidor")]
    for base in bases:
        for folder in (base / "annotation" / part, base / part):
            if os.path.isdir(folder):
                return [folder]
    if vidor and vidor.name == part and os.path.isdir(vidor):
        return [vidor]
    raise UsageError(
        f"no VidOR annotations for the {split} split of VidSTG",
        expected=f"a folder annotation/{part} or {part}, with <group>/<video>.json in it",
        looked_in=_listed(bases),
        hint="--vidor DIR, the folder that holds annotation/ or training/ and validation/",
    )


def default_video_folder(dataset: str, path: Path) -> Path:
    """Where a dataset's videos usually lie, seen from ``path``. Raises UsageError when there is no such folder."""
    _require_dataset(dataset)
    roots = list(_roots(path))
    names = ["vidor/video", "vidor/videos", "videos", "video"] if dataset == "vidstg" else ["videos", "video"]
    candidates = [root / name for root in roots for name in names]
    if dataset == "vidstg":
        candidates += [root.parent / "vidor" / "video" for root in roots]
    for folder in candidates:
        if os.path.isdir(folder):
            return folder
    raise UsageError(
        f"no folder of videos near {path}",
        looked_in=_listed(candidates),
        hint="--videos DIR",
    )


def _roots(path: Path) -> Iterator[Path]:
    """``path`` and the folders above it that may be the dataset's folder."""
    folder = Path(os.path.abspath(path if os.path.isdir(path) else path.parent))
    yield folder
    while folder.name in LEVELS and folder != folder.parent:
        folder = folder.parent
        yield folder


def _listed(folders: Iterable[Path]) -> str:
    return ", ".join(dict.fromkeys(str(folder) for folder in folders))


def _require_dataset(dataset: str) -> None:
    if dataset not in DATASETS:
        raise _unknown("dataset", dataset, DATASETS)


def _unknown(kind: str, name: str, known: Iterable[str], of: str = "") -> UsageError:
    known = list(known)
    return UsageError(
        f"no {kind} {name!r}" + (f" {of}" if of else ""),
        expected=f"one of {', '.join(known)}",
        hint=_nearest(name, known),
    )


def _nearest(name: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(name.lower(), known, 1, cutoff=0.4)
    return f"{close[0]}?" if close else None
