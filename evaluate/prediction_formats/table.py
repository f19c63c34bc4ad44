"""Prediction formats of other projects, recognised by the content of a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...cache.schema import Tube
from ...errors import PredictionError
from . import challenge, stcat, tubedetr
from .numbering import LINES, ScoredSplit


class Format(NamedTuple):
    """A file format. ``recognise``: whether content has this format. ``read``: the tubes in the content."""

    name: str
    recognise: Callable[[Any], bool]
    read: Callable[[Any, ScoredSplit], dict[int | str, Tube]]


FORMATS = (
    Format("results of TubeDETR", tubedetr.recognise, tubedetr.read),
    Format("results of STCAT or CG-STVG", stcat.recognise, stcat.read),
    Format("HC-STVG challenge", challenge.recognise, challenge.read),
)


def recognise(content: Any) -> Format | None:
    """The format of a file's content; None if it is unknown."""
    return next((f for f in FORMATS if f.recognise(content)), None)


def unknown(path: object, content: Any) -> PredictionError:
    """The error for content in no known format."""
    found = f"an object with {', '.join(map(repr, list(content)[:6]))}" if isinstance(content, dict) else "a list"
    return PredictionError(
        f"{path} is in no format that is known",
        expected="JSON lines, or " + ", ".join(f.name for f in FORMATS),
        found=found,
        effect="nothing was scored",
        hint=f"TubeDETR keeps boxes with --test, CG-STVG with save_pred; or {LINES}",
    )
