"""The folder of answers: predictions.jsonl and the annotated videos. Files of others in it are never touched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ...atomic import make_folder, open_atomic, remove, sweep, temporary_name
from ...errors import PredictionError, UsageError, VideoError
from .answers import Grounding
from .videos import content_of

PREDICTIONS = "predictions.jsonl"
OURS = {"sample_id", "video", "sentence", "others"}
"""What every line of this file has."""


def require_room(out: Path, count: int, sources: Iterable[Path]) -> None:
    """Refuse to replace a file that an earlier run did not write, or that is asked about. ``count``: annotated videos.

    Raises UsageError; nothing is changed.
    """
    earlier = films_of(out)  # they are removed
    names = [PREDICTIONS, *(film_name(number) for number in range(1, count + 1)), *earlier]
    ours = {PREDICTIONS, *earlier} if written_here(out / PREDICTIONS) else set()
    asked = {source.resolve() for source in sources}
    for name in names:
        file = out / name
        if file.resolve() in asked:
            raise UsageError(
                f"{file} is asked about, and would be replaced or removed",
                effect="nothing was read",
                hint="another --out",
            )
        if name not in ours and file.exists() and file.stat().st_size:  # nothing of an empty one is lost
            raise UsageError(
                f"{file} is there already, and no earlier stvg predict wrote it as it is",
                effect="nothing was read or written",
                hint="--out with a folder of its own",
            )


def write_answers(out: Path, found: Iterable[Grounding], draw: Callable[[Grounding, list[Path]], None] | None) -> Path:
    """Write ``out``/predictions.jsonl: one line per sentence, numbered from 1 over all videos.

    ``draw``: writes the annotated videos of a grounding to the given files; they become ``out``/1.mp4 and so on. None: no
    videos. Nothing of ``out`` changes before all answers are complete. Then the annotated videos of an earlier run are
    removed, unless they were changed or replaced since. Raises PredictionError for a non-finite answer.
    """
    rest = iter(found)
    first = list(islice(rest, 1))  # a video that cannot be answered leaves no folder
    make_folder(out)
    sweep(out)
    earlier, aside, number = films_of(out), out / temporary_name(), 0
    aside.mkdir()
    try:
        with open_atomic(out / PREDICTIONS, text=True) as file:
            for grounding in chain(first, rest):
                lines = grounding.lines(number + 1)
                if draw:
                    lines = _drawn(grounding, lines, aside, draw)
                file.writelines(map(_as_text, lines))
                number += len(lines)
        for name in earlier:
            (out / name).unlink(missing_ok=True)
        for film in sorted(aside.iterdir()):
            film.replace(out / film.name)
    finally:
        remove(aside)
    return out / PREDICTIONS


def _drawn(
    grounding: Grounding, lines: Sequence[dict[str, Any]], folder: Path, draw: Callable[[Grounding, list[Path]], None]
) -> list[dict[str, Any]]:
    """The lines with the names and the content of their annotated videos, which are written to ``folder``."""
    films = [folder / film_name(line["sample_id"]) for line in lines]
    draw(grounding, films)
    facts = ({"film": film.name, "film_sha256": content_of(film)} for film in films)
    return [line | fact for line, fact in zip(lines, facts, strict=True)]


def _as_text(line: dict[str, Any]) -> str:
    try:
        return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:
        raise PredictionError(f"the answer to sentence {line['sample_id']} is not finite") from None


def film_name(number: int) -> str:
    """The annotated video of a sentence."""
    return f"{number}.mp4"


def written_here(file: Path) -> bool:
    """Whether a file holds predictions of `write_answers`, and nothing else."""
    return bool(lines := lines_of(file)) and all(
        {"sample_id", "video", "sentence", "others"} <= k.keys() for k in lines
    )


def films_of(out: Path) -> list[str]:
    """Names of the annotated videos of an earlier run that are as that run wrote them."""
    found = []
    for line in lines_of(out / PREDICTIONS):
        name, written = line.get("film"), line.get("film_sha256")
        try:
            if name == film_name(int(line.get("sample_id", 0))) and written == content_of(out / name):
                found.append(name)
        except (VideoError, TypeError, ValueError):  # it is not there any more, or was never ours
            continue
    return found


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; none for any other file."""
    try:
        found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    return found if all(isinstance(line, dict) for line in found) else []
