"""The request of `stvg predict`, of its page and of the library's `ground`, with its defaults and limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...config import Range, setting
from ...errors import AnnotationError, StvgError, UsageError, VideoError
from ...objects import Location
from ...requested import EncoderPlaces

if TYPE_CHECKING:
    from .answers import Grounding
    from .predictor import Predictor

MOST = 20
"""Maximum number of moments per sentence."""
SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv", ".wmv", ".3gp"}
"""Suffixes of the files in a folder that count as videos. Their content is checked when they are decoded."""

COLUMNS = ("video", "sentence")
"""Columns of a table of questions."""


@dataclass(frozen=True)
class Question:
    """Sentences about one video. Raises UsageError for an empty sentence, and for one that is not valid Unicode."""

    file: Path
    sentences: tuple[str, ...]
    name: str | None = None
    """Name of the video in the answers.  [the file's name]"""

    def __post_init__(self) -> None:
        for number, sentence in enumerate(self.sentences, start=1):
            if not sentence.strip():
                raise UsageError(f"sentence {number} is empty", expected="what to look for, in words")
            if any("\ud800" <= letter <= "\udfff" for letter in sentence):
                raise UsageError(f"sentence {number} is no text", found="bytes that are not UTF-8, or half a character")

    @property
    def shown(self) -> str:
        return self.name or self.file.name


@dataclass(frozen=True)
class Ground(EncoderPlaces):
    """Which head answers, and how. Raises UsageError unless the number of moments is from 1 to `MOST`."""

    checkpoint: Path
    moments: int = setting(1, Range(1, MOST))
    """Number of the likeliest moments per sentence; no two overlap by half."""
    cache: Location | None = None
    """Where features of videos are read and stored; see `Predictor`.  [nowhere]"""
    device: str | None = None


def questions_about(what: Path, sentences: Sequence[str]) -> list[Question]:
    """Questions about a video file, about every video below a folder, or from the rows of a table ``what``.csv.

    Raises UsageError if there is no video or no sentence, or if sentences are given in addition to a table.
    """
    if what.suffix.lower() == ".csv":
        if sentences:
            raise UsageError(f"{what} brings its own sentences", hint="leave the SENTENCEs out")
        return read_questions(what)
    if not sentences:
        raise UsageError(f"nothing is asked of {what}", hint="name a SENTENCE, or a .csv with columns video,sentence")
    if not what.is_dir():
        return [Question(what, tuple(sentences))]
    files = videos_below(what)
    if not files:
        raise UsageError(f"{what} holds no video", expected=f"files named {', '.join(sorted(SUFFIXES))}")
    return [Question(file, tuple(sentences), name) for name, file in files.items()]


def videos_below(folder: Path) -> dict[str, Path]:
    """The videos in a folder and its subfolders, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return {file.relative_to(folder).as_posix(): file for file in files}


def read_questions(table: Path) -> list[Question]:
    """The questions of a CSV file with the columns ``video`` (a path relative to the table's folder) and ``sentence``.

    Commas, semicolons or tabs separate the columns; other columns are ignored. Sentences of one video form one question.
    Raises UsageError naming the line.
    """
    from ...extract.datasets.formats.text_table import read_table

    asked: dict[str, list[str]] = {}
    try:
        for row in read_table(table, COLUMNS, None):
            asked.setdefault(row.required("video"), []).append(row.required("sentence"))
    except AnnotationError as error:
        raise UsageError(error.message, **error.facts) from None
    if not asked:
        raise UsageError(f"{table} asks nothing", expected=f"columns {','.join(COLUMNS)} and a row for each sentence")
    return [Question(table.parent / video, tuple(some), video) for video, some in asked.items()]


def answered(
    predictor: Predictor, questions: Sequence[Question], moments: int, faults: list[StvgError]
) -> Iterator[Grounding]:
    """Yield the answers, video by video. Errors of unreadable videos are appended to ``faults``.

    If no video can be read, the last error is raised.
    """
    for question in questions:
        try:
            yield predictor.ground(question, moments)
        except VideoError as error:
            faults.append(error)
            if len(faults) == len(questions):
                raise
