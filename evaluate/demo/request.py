"""The request of a demo, and the pair of encoders in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...errors import UsageError
from ...requested import Request

NOTHING = "nothing was written"


class EncoderPair(NamedTuple):
    """Names of a visual and a text encoder."""

    backbone: str
    text: str

    @classmethod
    def parse(cls, given: str) -> EncoderPair:
        """The pair of ``BACKBONE+TEXT``. Raises UsageError unless there are two names with one + between them."""
        names = given.split("+")
        if len(names) == 2 and all(names):
            return cls(*names)
        missing = "text encoder after" if names[0] else "visual encoder before"
        raise UsageError(
            f"encoders {given!r} are not a pair",
            expected="BACKBONE+TEXT, such as lite0+minilm",
            found=f"no {missing} a +" if len(names) < 3 else "more than one +",
            effect=NOTHING,
            hint="stvg encoder list, for the names of both kinds",
        )

    def __str__(self) -> str:
        return f"{self.backbone}+{self.text}"


TINY = EncoderPair("tiny", "tiny")
"""The default encoders: small, random, without weights."""


@dataclass(frozen=True, kw_only=True)
class DemoRequest(Request):
    """All parameters of `stvg demo`. Raises UsageError for ``encoders`` that are not a pair."""

    out: Path = Path("stvg-demo")
    quick: bool = False
    """Fewer videos and epochs."""
    report: bool = False
    """Also write the page of `stvg report`."""
    encoders: str = str(TINY)
    """BACKBONE+TEXT: a visual and a text encoder, with weights in their default places."""
    seed: int = 0
    """Seed of videos, random encoders and head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        EncoderPair.parse(self.encoders)

    @property
    def pair(self) -> EncoderPair:
        return EncoderPair.parse(self.encoders)
