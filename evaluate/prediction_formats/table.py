"""The formats of other projects that prediction files are read in, recognised by what a file holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...cache.schema import Tube
from ...errors import PredictionError
from . import challenge, stcat, tubedetr
from .numbering import LINES, ScoredSplit


class Format(NamedTuple):
    """A kind of file. ``recognise``: whether its content is of this kind; ``read``: the tubes in it."""

    name: str
    recognise: Callable[[Any], bool]
    read: Callable[[Any, ScoredSplit], dict[int | str, Tube]]


FORMATS = (
    Format("results of TubeDETR", tubedetr.recognise, tubedetr.read),
    Format("results of STCAT or CG-STVG", stcat.recognise, stcat.read),
    Format("HC-STVG challenge", challenge.recognise, challenge.read),
)


def recognise(content: Any) -> Format | None:
    """The format of what a file holds; None for no format that is known."""
    return next((f for f in FORMATS if f.recognise(content)), None)


def unknown(path: object, content: Any) -> PredictionError:
    """What to say of an object that is of no format."""
    found = f"an object with {', '.join(map(repr, list(content)[:6]))}" if isinstance(content, dict) else "a list"
    return PredictionError(
        f"{path} is in no format that is known",
        expected="JSON lines, or " + ", ".join(f.name for f in FORMATS),
        found=found,
        effect="nothing was scored",
        hint=f"TubeDETR keeps boxes with --test, CG-STVG with save_pred; or {LINES}",
    )
