"""The rows of real.py's tables, and the work that each needs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Work:
    """What a row needs done: features, and a head trained on them."""

    backbone: str = "lite0"
    weights: str | None = None
    text: str = "minilm"
    settings: tuple[str, ...] = ()
    levels: str = "last"
    resolution: int = 224
    """Short side. The encoder tiny, of stride 16, gets 128, so that all heads read about as many cells."""
    further: bool = False
    """Train the head of `BEST` further, for one epoch."""
    as_long: bool = False
    """Train further for as many epochs as fit into the time that one epoch of `END_TO_END` takes."""

    @property
    def cache(self) -> str:
        return "-".join(["cache", self.backbone, self.weights or "own", self.text, self.levels, str(self.resolution)])

    @property
    def key(self) -> str:
        """Its name in files; it changes with anything that is asked for."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:10]

    @property
    def after(self) -> tuple[Work, ...]:
        """The work whose results it needs."""
        if self.as_long:
            return BEST, END_TO_END, replace(self, as_long=False)
        return (BEST,) if self.further else ()


BEST = Work()
ONCE_MORE = (
    "train.epochs=1",
    "train.lr=0.0001",
    "train.warmup=0.1",
    "train.per_video=4",
    "train.temporal_crop=false",
    "train.views=false",
)
"""Clips are not cropped, so that the sentences of a video share its frames, which end to end are what takes the time."""
FURTHER = Work(settings=ONCE_MORE, further=True)
LAST_STAGE = Work(
    settings=(*ONCE_MORE, "train.mode=last-stage", "train.lr_backbone=0.0001"), levels="full", further=True
)
END_TO_END = replace(  # recomputes, so that several processes fit into memory
    FURTHER,
    settings=(
        *ONCE_MORE,
        "train.mode=end-to-end",
        "train.lr_backbone=0.0001",
        "train.lr_text=0",
        "train.amp=bf16",
        "train.recompute=true",
    ),
)


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    table: str
    name: str
    work: Work


ROWS = [
    Row("pictures", "tiny", Work("tiny", resolution=128)),
    Row("pictures", "Lite0, random weights", Work(weights="random")),
    Row("pictures", "ResNet-101, random weights", Work("resnet101", "random")),
    Row("pictures", "Lite0, pretrained *", BEST),
    Row("words", "tiny", Work(text="tiny")),
    Row("words", "MiniLM, pretrained *", BEST),
    Row("heads", "FSM *", BEST),
    Row("heads", "TubeDETR", Work(settings=("model.head=tubedetr",))),
    Row("heads", "STCAT", Work(settings=("model.head=stcat",))),
    Row("frozen", "frozen *", BEST),
    Row("frozen", "one epoch more, frozen", FURTHER),
    Row("frozen", "one epoch more, last stage", LAST_STAGE),
    Row("frozen", "one epoch more, end to end", END_TO_END),
    Row("frozen", "as long as end to end, frozen", replace(FURTHER, as_long=True)),
    Row("frozen", "as long as end to end, last stage", replace(LAST_STAGE, as_long=True)),
]
WORKS = list(dict.fromkeys(row.work for row in ROWS))
