"""The rows of an ablation: the paper's tables III to X, or a user's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...config import load_yaml, nearest
from ...errors import UsageError
from ..paper_figures import ABLATED, PUBLISHED, Figures

NO_FRAME, NO_VIDEO = "model.fusion.frame_level=false", "model.fusion.video_level=false"
FULL = PUBLISHED[ABLATED]["all"]["FSM, paper, 224"]
"""The paper's full model, HC-STVG v1 at 224."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    label: str
    settings: tuple[str, ...] = ()
    """Added to the preset and to the settings of the command line."""
    paper: Figures | None = None
    resolution: int | None = None
    """Resolution of the cache that this row needs; None: the cache of --cache."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `TrainRequest` in which this row differs from the command line."""


@dataclass(frozen=True)
class Table:
    """One ablation. ``counts``: only parameters are compared; nothing is trained."""

    name: str
    title: str
    rows: tuple[Row, ...]
    note: str = ""
    counts: bool = False


TABLES = {
    table.name: table
    for table in (
        Table("III", "levels of feature matching", (
            Row("neither", (NO_FRAME, NO_VIDEO), (44.52, 31.43, 50.60, 27.07)),
            Row("frame level", (NO_VIDEO,), (45.84, 32.59, 53.62, 27.93)),
            Row("video level", (NO_FRAME,), (46.10, 32.72, 51.64, 27.67)),
            Row("both", (), FULL),
        )),
        Table("IV", "gates of frame-level matching", (
            Row("with gates", (), FULL),
            Row("without", ("model.fusion.gate=false",), (44.59, 31.14, 48.02, 27.50)),
        )),
        Table("V", "query matching", (
            Row("without", ("model.qmm=false",), (43.17, 31.35, 48.97, 24.14)),
            Row("with", (), FULL),
        ), note="The paper's two labels are swapped here: its text gives the gains that only this order has."),
        Table("VI", "number of queries", (
            Row("1", ("model.num_queries=1",), (45.39, 32.67, 53.17, 28.36)),
            Row("5", ("model.num_queries=5",), FULL),
            Row("10", ("model.num_queries=10",), (46.54, 33.41, 53.36, 29.14)),
            Row("15", ("model.num_queries=15",), (46.89, 33.59, 53.79, 28.62)),
            Row("25", ("model.num_queries=25",), (46.18, 32.91, 52.41, 28.45)),
        )),
        Table("VII", "parameters of each part", (
            Row("without either level", (NO_FRAME, NO_VIDEO)),
            Row("frame level", (NO_VIDEO,)),
            Row("video level", (NO_FRAME,)),
            Row("contrast (MRCL)", (NO_FRAME, NO_VIDEO, "loss.mrcl=2")),
        ), note="The paper prints 185.63, 187.21, 186.03 and 185.63 M; its video level holds 0.39 M that are never used. "
                "These are the head's own; ResNet-101 adds 42.39 M, RoBERTa 124.65 M.", counts=True),
        Table("VIII", "decoders of the two streams", (
            Row("shared", (), FULL),
            Row("of their own", ("model.shared_decoder=false",), (46.46, 33.37, 52.67, 26.64)),
        )),
        Table("IX", "learned weights of frames", (
            Row("with scaling", (), FULL),
            Row("without", ("model.fusion.scale=false",), (46.25, 33.52, 53.22, 27.67)),
        )),
        Table("X", "resolution", (
            Row("224", (), FULL, 224),
            Row("320", (), (47.92, 34.69, 55.12, 30.17), 320),
            Row("352", (), (48.63, 35.06, 55.48, 30.61), 352),
        ), note="Every resolution is a cache of its own: name them with --cache-at."),
    )
}  # fmt: skip


def read_grid(path: Path) -> Table:
    """A user's own table. Raises UsageError for anything but rows with a label, settings and weights to start from, and
    for two rows with one label.

        title: dropout
        rows:
          - {label: none, set: [model.dropout=0]}
          - {label: a fifth, set: [model.dropout=0.2]}
          - {label: from other weights, init: weights/tubedetr/head.safetensors}
          - {label: from scratch, init: none}

    ``init`` replaces --init in its row; a relative path starts at the folder of the grid.
    """
    found = load_yaml(path)
    require_known(found, ("title", "rows"), f"{path}: a grid")
    rows = found.get("rows")
    for number, row in enumerate(rows if isinstance(rows, list) else [], 1):
        if isinstance(row, dict):
            require_known(
                row, ("label", "set", "init"), f"{path}: row {number} ({row.get('label', 'without a label')})"
            )
    if not isinstance(rows, list) or not rows or not all(map(_is_row, rows)):
        expected = (
            "rows: [{label: …, set: [group.setting=value, …], init: FILE or none}, …]; set and init may be left out"
        )
        raise UsageError(f"{path} is no grid", expected=expected)
    require_labels_of_their_own(path, rows)
    return Table(path.stem, str(found.get("title", path.stem)), tuple(_row(row, path.parent) for row in rows))


def require_known(found: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    """Raise UsageError for the first unknown key."""
    if unknown := sorted(map(str, found.keys() - set(known))):
        raise UsageError(
            f"{what} has no entry {unknown[0]!r}", expected=", ".join(known), hint=nearest(unknown[0], known)
        )


def require_labels_of_their_own(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise UsageError if two rows have the same label: nothing else tells them apart in the table."""
    first: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        label = str(row["label"])
        if (before := first.setdefault(label, number)) != number:
            raise UsageError(
                f"{path}: rows {before} and {number} have the same label {label!r}",
                expected="a different label for every row",
                effect="nothing was trained",
            )


def _is_row(found: object) -> bool:
    return (
        isinstance(found, dict)
        and "label" in found
        and isinstance(found.get("set", []), list)
        and isinstance(found.get("init", ""), str)
    )


def _row(found: Mapping[str, Any], folder: Path) -> Row:
    options = {"init": None if found["init"] == "none" else folder / found["init"]} if "init" in found else {}
    return Row(str(found["label"]), tuple(map(str, found.get("set", []))), options=options)
