"""Scores as a table for the terminal, Markdown, CSV or LaTeX, beside the published figures if wanted.

Figures are percent with two decimals. Every table says how it was scored: protocol, frames, and how many samples.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import NamedTuple

from ..cache.errors import UsageError
from .metrics import METRICS, Scores

COLUMNS = ("group", "source", *METRICS)

# Percent, in the order of METRICS without gt_vIoU, which none of them reports.
PUBLISHED: dict[tuple[str, str], dict[str, dict[str, tuple[float, float, float, float]]]] = {
    ("vidstg", "test"): {
        "declarative": {
            "FSM, paper, 224": (49.09, 28.23, 39.52, 26.95),
            "TubeDETR": (46.90, 27.60, 37.70, 25.70),
            "STCAT@224": (48.76, 28.04, 39.44, 26.00),
        },
        "interrogative": {
            "FSM, paper, 224": (47.56, 23.43, 32.54, 21.53),
            "TubeDETR": (46.10, 23.30, 31.30, 20.80),
            "STCAT@224": (47.50, 23.32, 32.26, 21.27),
        },
    },
    ("hcstvg-v1", "test"): {
        "all": {
            "FSM, paper, 224": (47.15, 34.00, 54.14, 29.74),
            "TubeDETR@352": (43.70, 32.40, 49.80, 23.50),
            "STCAT@224": (47.18, 31.79, 51.35, 26.97),
        },
    },
}
FOOTNOTE = (
    "Published figures are of models trained end to end, each scored by its own evaluator (STCAT: every frame). "
    "A run from a cache keeps its encoders frozen: it ranks variants and reproduces none of these figures."
)


class Row(NamedTuple):
    """One line of a table. ``figures``: percent, in the order of METRICS, None where there is none."""

    group: str
    source: str
    figures: tuple[float | None, ...]
    published: bool = False

    def cells(self, absent: str = "–") -> list[str]:
        return [self.group, self.source, *(absent if x is None else f"{x:.2f}" for x in self.figures)]


def format_table(
    scores: Scores,
    *,
    dataset: str | None = None,
    split: str | None = None,
    run: str = "this run",
    style: str = "terminal",
) -> str:
    """A table with a row per group, ending in a newline.

    Naming ``dataset`` and ``split`` adds the published rows of exactly these; where there are none, the table has none.
    ``run`` names the scored rows. ``style``: terminal, markdown, csv or latex. CSV puts the statement of how it was
    scored into columns and leaves the footnote out, so that every line is data.
    Raises UsageError for another style.
    """
    if style not in STYLES:
        raise UsageError(f"there is no table style {style!r}", expected=", ".join(STYLES))
    beside = PUBLISHED.get((dataset or "", split or ""), {})
    rows = []
    for group, means in scores.groups.items():
        rows.append(Row(group, run, tuple(100 * means[metric] for metric in METRICS)))
        rows += [Row(group, source, (*figures, None), True) for source, figures in beside.get(group, {}).items()]
    notes = [describe(scores, dataset, split)]
    if any(row.published for row in rows):
        notes.append(FOOTNOTE)
    return STYLES[style](scores, rows, notes)


def describe(scores: Scores, dataset: str | None = None, split: str | None = None) -> str:
    """One sentence: what was scored, how, and how much of it."""
    what = " ".join(name for name in (dataset, split) if name)
    frames = "every source frame"
    if scores.protocol == "tubedetr":
        frames = f"frames sampled at {scores.sampling.fps:g} fps, at most {scores.sampling.max_frames}"
    total = scores.scored + len(scores.missing)
    coverage = f"{scores.scored:,} of {total:,} samples scored"
    if scores.missing:
        fate = "counted as 0" if scores.protocol == "hcstvg_official" else "left out"
        coverage += f" ({len(scores.missing):,} without a prediction {fate})"
    return "; ".join([*([what] if what else []), f"protocol {scores.protocol}", frames, coverage]) + "."


def _terminal(scores: Scores, rows: list[Row], notes: list[str]) -> str:
    table = [list(COLUMNS), *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    align = [str.ljust, str.ljust, *[str.rjust] * len(METRICS)]
    lines = ["  ".join(a(cell, w) for a, cell, w in zip(align, cells, widths, strict=True)) for cells in table]
    rule = "─" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:], rule, *notes]) + "\n"


def _markdown(scores: Scores, rows: list[Row], notes: list[str]) -> str:
    table = [list(COLUMNS), ["---", "---", *["---:"] * len(METRICS)], *(row.cells() for row in rows)]
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |" for cells in table]
    return "\n".join([*lines, *(f"\n{note}" for note in notes)]) + "\n"


def _csv(scores: Scores, rows: list[Row], notes: list[str]) -> str:
    sampling = [f"{scores.sampling.fps:g}", scores.sampling.max_frames] if scores.protocol == "tubedetr" else ["", ""]
    how = [scores.protocol, *sampling, scores.scored, scores.scored + len(scores.missing)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, "protocol", "fps", "max_frames", "scored", "total"])
    writer.writerows([*row.cells(absent=""), *([""] * len(how) if row.published else how)] for row in rows)
    return text.getvalue()


def _latex(scores: Scores, rows: list[Row], notes: list[str]) -> str:
    header, *body = ["    " + " & ".join(map(_escaped, c)) + r" \\" for c in (COLUMNS, *(r.cells() for r in rows))]
    lines = [
        r"\begin{table}",
        rf"  \caption{{{_escaped(' '.join(notes))}}}",
        rf"  \begin{{tabular}}{{ll{'r' * len(METRICS)}}}",
        r"    \hline",
        header,
        r"    \hline",
        *body,
        r"    \hline",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
    special |= {mark: "\\" + mark for mark in "&%$#_{}"}
    return "".join(special.get(mark, mark) for mark in text)


STYLES: dict[str, Callable[[Scores, list[Row], list[str]], str]] = {
    "terminal": _terminal,
    "markdown": _markdown,
    "csv": _csv,
    "latex": _latex,
}
