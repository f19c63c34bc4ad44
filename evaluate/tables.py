"""Scores as a table for the terminal, Markdown, CSV or LaTeX, beside the published figures if wanted.

Figures are percent with two decimals, 95 % intervals with one. Every table says how it was scored: protocol, frames, and
how many samples.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import UsageError
from ..untrusted import harmless, in_latex, in_markdown, in_spreadsheet
from .bootstrap import Interval
from .compare import Comparison
from .metrics import METRICS, SELECTED, Scores
from .paper_figures import published_beside

MARK = "selected on this split: the checkpoint is the epoch that scored best on it, which flatters these figures"
COLUMNS = ("group", "source", *METRICS)


class Row(NamedTuple):
    """One line of a table. ``figures``: percent, in the order of METRICS, None where there is none."""

    group: str
    source: str
    figures: tuple[float | None, ...]
    published: bool = False
    intervals: tuple[Interval, ...] | None = None
    """95 %, in the order of figures; None where there are none."""

    def cells(self, absent: str = "–", join: str = " ") -> list[str]:
        """Figures as text, each with its interval behind it."""
        texts = [absent if x is None else f"{x:.2f}" for x in self.figures]
        if self.intervals:
            texts = [f"{t}{join}{spread(i)}" if spread(i) else t for t, i in zip(texts, self.intervals, strict=True)]
        return [self.group, self.source, *texts]


def spread(interval: Interval) -> str:
    """An interval in percent; nothing for one that could not be had."""
    low, high = interval
    return "" if low != low else f"{100 * low:.1f}–{100 * high:.1f}"


def format_table(
    scores: Scores,
    *,
    dataset: str | None = None,
    split: str | None = None,
    run: str = "this run",
    style: str = "terminal",
) -> str:
    """A table with a row per group, ending in a newline.

    Naming ``dataset`` and ``split`` adds the published rows of exactly these, where all of that split was scored.
    ``run`` names the scored rows. ``style``: terminal, markdown, csv or latex. CSV puts the statement of how it was
    scored into columns and leaves the footnote out, so that every line is data.
    Raises UsageError for another style.
    """
    if style not in STYLES:
        raise UsageError(f"there is no table style {style!r}", expected=", ".join(STYLES))
    beside = published_beside(scores, dataset, split)
    rows, sure = [], scores.intervals()
    for group, means in scores.groups.items():
        figures = tuple(100 * means[metric] for metric in METRICS)
        rows.append(Row(group, run, figures, intervals=tuple(sure[group][metric] for metric in METRICS)))
        rows += [Row(group, source, (*figures, None), True) for source, figures in beside.rows.get(group, {}).items()]
    notes = [describe(scores, dataset, split), *([beside.note] if beside.note else [])]
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
    chosen = [MARK] if scores.selected_on_this_split else []
    return "; ".join([*([what] if what else []), f"protocol {scores.protocol}", frames, coverage, *chosen]) + "."


def _terminal(scores: Scores, rows: list[Row], notes: list[str]) -> str:
    table = [row.cells(join="\n") for row in rows]
    return render(COLUMNS, table, "ll" + "r" * len(METRICS)) + "".join(f"{note}\n" for note in notes)


def render(columns: Sequence[str], rows: Sequence[Sequence[str]], align: str, widest: int | None = None) -> str:
    """A table for the terminal; ``align`` a letter a column, l or r. Cells are text, whatever marks are in them.

    ``widest``: more characters of a cell are cut off, with an ellipsis.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name, side in zip(columns, align, strict=True):
        table.add_column(name, justify="left" if side == "l" else "right", no_wrap=True)
    for cells in rows:
        shown = map(harmless, cells)
        table.add_row(*(Text(c if widest is None or len(c) <= widest else c[: widest - 1] + "…") for c in shown))
    text = io.StringIO()
    Console(file=text, width=400, color_system=None).print(table)
    return "".join(line.rstrip() + "\n" for line in text.getvalue().splitlines()) + "\n"


def format_comparison(comparison: Comparison, a: str, b: str, most: int = 10) -> str:
    """Paired differences, marked where their interval leaves zero out, and the samples that changed most."""
    rows = []
    for d in comparison.differences:
        figures = [f"{100 * d.a:.2f}", f"{100 * d.b:.2f}", f"{100 * (d.b - d.a):+.2f}"]
        rows.append([d.group, d.metric, *figures, spread(d.interval) or "–", "*" if d.sure else ""])
    text = render(("group", "metric", a, b, "difference", "95 %", ""), rows, "llrrrrl")
    text += (
        f"* zero lies outside the 95 % interval of the paired difference; {len(comparison.changed):,} samples in both"
    )
    text += f", {comparison.only_a:,} only in the first and {comparison.only_b:,} only in the second\n"
    text += "".join(f"{name} is {MARK}\n" for name, is_so in zip((a, b), comparison.selected, strict=True) if is_so)
    changed = []
    for x, y in comparison.changed[:most]:
        figures = [f"{100 * x.vIoU:.1f}", f"{100 * y.vIoU:.1f}", f"{100 * (y.vIoU - x.vIoU):+.1f}"]
        changed.append([str(x.sample_id), x.video_id, *figures, x.sentence])
    return text + "\n" + render(("sample", "video", a, b, "vIoU", "sentence"), changed, "llrrrl", widest=72)


def _markdown(scores: Scores, rows: list[Row], notes: list[str]) -> str:
    table = [list(COLUMNS), ["---", "---", *["---:"] * len(METRICS)], *(row.cells() for row in rows)]
    lines = ["| " + " | ".join(map(in_markdown, cells)) + " |" for cells in table]
    return "\n".join([*lines, *(f"\n{note}" for note in notes)]) + "\n"


def _csv(scores: Scores, rows: list[Row], notes: list[str]) -> str:
    sampling = [f"{scores.sampling.fps:g}", scores.sampling.max_frames] if scores.protocol == "tubedetr" else ["", ""]
    mark = {SELECTED: "yes"} if scores.selected_on_this_split else {}
    how = [scores.protocol, *sampling, scores.scored, scores.scored + len(scores.missing), *mark.values()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [f"{metric} {end}" for metric in METRICS for end in ("low", "high")]
    writer.writerow([*COLUMNS, *ends, "protocol", "fps", "max_frames", "scored", "total", *mark])
    for row in rows:
        pairs = row.intervals or ((float("nan"),) * 2,) * len(METRICS)
        limits = ["" if x != x else f"{100 * x:.2f}" for pair in pairs for x in pair]
        group, source, *figures = row._replace(intervals=None).cells("")
        named = map(in_spreadsheet, (group, source))
        writer.writerow([*named, *figures, *limits, *([""] * len(how) if row.published else how)])
    return text.getvalue()


def _latex(scores: Scores, rows: list[Row], notes: list[str]) -> str:
    header, *body = ["    " + " & ".join(map(in_latex, c)) + r" \\" for c in (COLUMNS, *(r.cells() for r in rows))]
    lines = [
        r"\begin{table}",
        rf"  \caption{{{in_latex(' '.join(notes))}}}",
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


STYLES: dict[str, Callable[[Scores, list[Row], list[str]], str]] = {
    "terminal": _terminal,
    "markdown": _markdown,
    "csv": _csv,
    "latex": _latex,
}
