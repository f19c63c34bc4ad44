"""MOTChallenge sequences (``--format mot``): ``gt/gt.txt`` with a box a line, and beside it ``seqinfo.ini``.

A line is ``frame, id, left, top, width, height, consider, class, visibility``; frames count from 1, and so do pixels.
Datumaro and CVAT write the same lines with pixels that count from 0, and ``labels.txt`` beside them.
"""

from __future__ import annotations

import configparser
import math
import shlex
from pathlib import Path

from ....errors import AnnotationError, UsageError
from ..json_file import text_of, unpacked
from ..validate import LARGEST, describe
from .model import Clip, Rows, Source, Track, from_size

GROUND_TRUTH = ("gt.txt", "gt.txt.gz")
CLASSES = (
    *("pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle", "static person"),
    *("distractor", "occluder", "occluder on the ground", "occluder full", "reflection"),
)
"""Of MOT16, MOT17 and MOT20, the first is class 1."""


def read(path: Path) -> Source:
    """All sequences of a folder, of one sequence's folder, or of one file. Raises UsageError when there is none."""
    files = [path] if path.is_file() else sorted(f for name in GROUND_TRUTH for f in path.rglob(name))
    if not files:
        expected = "SEQUENCE/gt/gt.txt, beside it SEQUENCE/seqinfo.ini"
        raise UsageError(f"no MOT sequence in {path}", expected=expected, hint="give the folder of the sequences")
    source = Source()
    for file in files:
        _read_sequence(source, file, path)
    return source


def _read_sequence(source: Source, file: Path, top: Path) -> None:
    folder = file.parent.parent if file.parent.name == "gt" else file.parent
    inside = folder.relative_to(top).as_posix() if folder.is_relative_to(top) else "."
    clip = folder.absolute().name if inside == "." else inside
    source.add_clip(file, _clip(folder, clip))
    labels = _labels(file.parent / "labels.txt")
    first_pixel = 1.0 if labels is None else 0.0
    found: dict[str, Rows] = {}
    for number, line in enumerate(text_of(file, unpacked(file, "a gt.txt"), "a gt.txt").splitlines(), start=1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split(",")]
        values = _numbers(file, number, cells)
        if len(values) > 6 and values[6] == 0:
            source.left_out["boxes marked as ignored (0 in the seventh column)"] += 1
            continue
        box = from_size([values[2] - first_pixel, values[3] - first_pixel, values[4], values[5]])
        rows = found.setdefault(cells[1].removesuffix(".0"), Rows(_label(values, labels)))
        rows.add(int(values[0]) - 1, box)
    for name, rows in found.items():
        frames_of, boxes, _ = rows.arrays(file, f"object {name}")
        source.tracks.append(Track(clip, name, rows.label, frames_of, boxes))


def _numbers(file: Path, line: int, cells: list[str]) -> list[float]:
    expected = "frame, id, left, top, width, height, and what else the format has, divided by commas"
    try:
        values = [float(cell) for cell in cells if cell]
    except ValueError:
        values = []
    whole = len(values) >= 6 and 1 <= values[0] <= LARGEST and values[0] == int(values[0]) and abs(values[1]) <= LARGEST
    if not whole or not all(math.isfinite(value) for value in values):
        found = describe(", ".join(cells))
        hint = "frames count from 1 in this format" if values[:1] == [0] else None
        raise AnnotationError(file, None, f"line {line}", "not a box", expected=expected, found=found, hint=hint)
    return values


def _label(values: list[float], labels: list[str] | None) -> str:
    """The class of a line: one of MOT16 and later has nine values, one of MOT15 has world coordinates in its place."""
    names = labels if labels is not None else CLASSES if len(values) == 9 else ()
    number = int(values[7]) if len(values) > 7 else 0
    return names[number - 1] if 1 <= number <= len(names) else ""


def _labels(file: Path) -> list[str] | None:
    if not file.is_file():
        return None
    return [line.strip() for line in text_of(file, unpacked(file, "a labels.txt"), "a labels.txt").splitlines()]


def _clip(folder: Path, name: str) -> Clip:
    """A sequence as its seqinfo.ini describes it, if it has one."""
    file, section = folder / "seqinfo.ini", dict[str, str]()
    if file.is_file():
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(text_of(file, unpacked(file, "a seqinfo.ini"), "a seqinfo.ini"))
            section = dict(parser["Sequence"])
        except (configparser.Error, KeyError):
            raise AnnotationError(file, None, "", "not a seqinfo.ini", expected="a section [Sequence]") from None
    numbers = {}
    for key in ("seqlength", "imwidth", "imheight"):
        if (value := section.get(key)) is not None:
            if not value.isdecimal() or not 1 <= int(value) <= LARGEST:
                raise AnnotationError(file, None, key, "not a whole number above 0", found=describe(value))
            numbers[key] = int(value)
    also = tuple(other for other in (section.get("name"), folder.absolute().name) if other and other != name)
    size = (numbers["imwidth"], numbers["imheight"]) if {"imwidth", "imheight"} <= numbers.keys() else None
    return Clip(name, also, numbers.get("seqlength"), size, pictures=_pictures(folder, section))


def _pictures(folder: Path, section: dict[str, str]) -> str | None:
    """How ffmpeg reads the pictures of a sequence, where they lie beside its annotation."""
    pictures = folder / (section.get("imdir") or "img1")
    names = [file for file in pictures.iterdir() if file.stem.isdecimal()] if pictures.is_dir() else []
    if not names:
        return None
    first = min(names)
    pattern = shlex.quote(f"{pictures}/%0{len(first.stem)}d{first.suffix}")
    return f"-framerate {section.get('framerate') or '30'} -start_number {int(first.stem)} -i {pattern}"
