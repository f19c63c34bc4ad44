"""Scores as a table for the terminal, Markdown, CSV or LaTeX, with the published figures if requested.

Figures are percent with two decimals; 95 % intervals have one decimal. Every table states its protocol, the scored
frames and the number of samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from .bootstrap import Interval
from .compare import Comparison
from .metrics import METRICS, SELECTED, Scores
from .paper_figures import published_beside
from .styles import Written, render, write_table

if TYPE_CHECKING:
    from pandas import DataFrame

MARK = "selected on this split: the checkpoint is the epoch that scored best on it, which flatters these figures"
COLUMNS = ("group", "source", *METRICS)


class Row(NamedTuple):
    """One row of a table. ``figures``: percent, in the order of METRICS; None where there is none."""

    group: str
    source: str
    figures: tuple[float | None, ...]
    published: bool = False
    intervals: tuple[Interval, ...] | None = None
    """95 % intervals, in the order of figures; None if there are none."""

    def cells(self) -> list[str]:
        """The row as text; each figure has its interval below it."""
        texts = ["–" if x is None else f"{x:.2f}" for x in self.figures]
        if self.intervals:
            texts = [f"{t}\n{spread(i)}".rstrip() for t, i in zip(texts, self.intervals, strict=True)]
        return [self.group, self.source, *texts]


def spread(interval: Interval) -> str:
    """An interval in percent; empty if it is NaN."""
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
    """A table with one row per group, ending in a newline.

    ``dataset`` and ``split``: add the published rows of that split, if all of its samples were scored. ``run``: label
    of the scored rows. ``style``: terminal, markdown, csv or latex. CSV states the protocol in columns and has no
    footnote, so every line is data. LaTeX has means only, as in papers. Raises UsageError for another style.
    """
    from pandas import DataFrame

    beside = published_beside(scores, dataset, split)
    rows, sure = [], scores.intervals()
    for group, means in scores.groups.items():
        figures = tuple(100 * means[metric] for metric in METRICS)
        rows.append(Row(group, run, figures, intervals=tuple(sure[group][metric] for metric in METRICS)))
        rows += [Row(group, source, (*figures, None), True) for source, figures in beside.rows.get(group, {}).items()]
    notes = [describe(scores, dataset, split), *([beside.note] if beside.note else [])]
    cells = DataFrame([row.cells() for row in rows], columns=COLUMNS)
    title = " ".join(name for name in (dataset, split) if name) if style == "latex" else ""
    table = Written(cells, "ll" + "r" * len(METRICS), title, notes, sheet_of(scores, rows) if style == "csv" else None)
    return write_table(table, style)


def sheet_of(scores: Scores, rows: Sequence[Row]) -> DataFrame:
    """One row per line: figures and interval limits in percent with two decimals, and how they were scored."""
    from pandas import DataFrame

    sampling = [f"{scores.sampling.fps:g}", scores.sampling.max_frames] if scores.protocol == "tubedetr" else ["", ""]
    mark = {SELECTED: "yes"} if scores.selected_on_this_split else {}
    how = [scores.protocol, *sampling, scores.scored, scores.scored + len(scores.missing), *mark.values()]
    ends = [f"{metric} {end}" for metric in METRICS for end in ("low", "high")]
    lines = []
    for row in rows:
        figures = ["" if x is None else f"{x:.2f}" for x in row.figures]
        pairs = row.intervals or ((float("nan"),) * 2,) * len(METRICS)
        limits = ["" if x != x else f"{100 * x:.2f}" for pair in pairs for x in pair]
        lines.append([row.group, row.source, *figures, *limits, *([""] * len(how) if row.published else how)])
    return DataFrame(lines, columns=[*COLUMNS, *ends, "protocol", "fps", "max_frames", "scored", "total", *mark])


def describe(scores: Scores, dataset: str | None = None, split: str | None = None) -> str:
    """One sentence: what was scored, how, and how many of the samples."""
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


def format_comparison(comparison: Comparison, a: str, b: str, style: str = "terminal", most: int = 10) -> str:
    """Paired differences, marked if their interval excludes zero; for the terminal also the samples that changed most.

    Raises UsageError for an unknown style.
    """
    from pandas import DataFrame

    rows = []
    for d in comparison.differences:
        figures = [f"{100 * d.a:.2f}", f"{100 * d.b:.2f}", f"{100 * (d.b - d.a):+.2f}"]
        rows.append([d.group, d.metric, *figures, spread(d.interval) or "–", "*" if d.sure else ""])
    count = f"{len(comparison.changed):,} samples in both"
    others = f"{comparison.only_a:,} only in the first and {comparison.only_b:,} only in the second"
    notes = [f"* zero lies outside the 95 % interval of the paired difference; {count}, {others}"]
    notes += [f"{name} is {MARK}" for name, is_so in zip((a, b), comparison.selected, strict=True) if is_so]
    numbers = [
        [d.group, d.metric, *(100 * x for x in (d.a, d.b, d.b - d.a, *d.interval))] for d in comparison.differences
    ]
    sheet = DataFrame(numbers, columns=["group", "metric", a, b, "difference", "low", "high"])
    cells = DataFrame(rows, columns=["group", "metric", a, b, "difference", "95 %", ""])
    title = f"{a} and {b}" if style == "latex" else ""
    text = write_table(Written(cells, "llrrrrl", title, notes, sheet), style)
    if style != "terminal":
        return text
    changed = []
    for x, y in comparison.changed[:most]:
        figures = [f"{100 * x.vIoU:.1f}", f"{100 * y.vIoU:.1f}", f"{100 * (y.vIoU - x.vIoU):+.1f}"]
        changed.append([str(x.sample_id), x.video_id, *figures, x.sentence])
    return text + "\n" + render(("sample", "video", a, b, "vIoU", "sentence"), changed, "llrrrl", widest=72)
