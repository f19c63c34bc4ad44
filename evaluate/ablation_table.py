"""What an ablation came to, in the paper's shape: our mean ± deviation over seeds, the paper's figure, and what it cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..cache.atomic import write_atomic
from ..cache.index import Cache
from ..cache.untrusted import in_latex, in_markdown
from .ablation import Plan, Row, Table, cell_of, parameters
from .tables import render

METRICS = ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5")
FROZEN = "Encoders are frozen here and trained in the paper: compare differences between rows, not its figures. "


@dataclass(frozen=True)
class Line:
    """One row of a table with what its finished cells say. Fractions; NaN where nothing is finished."""

    row: Row
    parameters: int
    results: list[dict[str, Any]]

    def mean(self, key: str) -> float:
        return float(np.mean([r[key] for r in self.results])) if self.results else float("nan")

    def deviation(self, key: str) -> float:
        """Over seeds, with n - 1; NaN for fewer than two."""
        return float(np.std([r[key] for r in self.results], ddof=1)) if len(self.results) > 1 else float("nan")


def lines_of(table: Table, plan: Plan) -> list[Line]:
    """Every row of a table and the results of its cells that are finished."""
    opened = {resolution: Cache.open(path) for resolution, path in plan.caches.items()}
    found = []
    for row in table.rows:
        cells = [] if table.counts else [cell_of(row, seed, plan, opened) for seed in range(plan.seeds)]
        results = [r for cell in cells if (r := cell.result) is not None]
        found.append(Line(row, parameters(row, plan), results))
    return found


def cells(line: Line, full: Line) -> list[str]:
    """A line as text: label, per metric ours and the difference from ``full``, and the paper's; parameters, cost, seeds."""
    found = [line.row.label]
    for i, metric in enumerate(METRICS):
        mean, deviation = 100 * line.mean(metric), 100 * line.deviation(metric)
        ours = "–" if np.isnan(mean) else f"{mean:.2f}" + ("" if np.isnan(deviation) else f" ± {deviation:.2f}")
        change = mean - 100 * full.mean(metric)
        theirs = "–"
        if line.row.paper and full.row.paper:
            theirs = f"{line.row.paper[i]:.2f} ({line.row.paper[i] - full.row.paper[i]:+.2f})"
        found += [ours, "–" if np.isnan(change) else f"{change:+.2f}", theirs]
    seconds = line.mean("seconds")
    return [*found, f"{line.parameters:,}", "–" if np.isnan(seconds) else f"{seconds:.0f} s", str(len(line.results))]


def columns() -> list[str]:
    figures = [name for metric in METRICS for name in (metric, "Δ", "paper (Δ)")]
    return ["", *figures, "parameters", "training", "seeds"]


def full_line(lines: Sequence[Line]) -> Line:
    """What differences are taken from: the row that changes nothing, else the first."""
    return next((line for line in lines if not line.row.settings and line.row.resolution in (None, 224)), lines[0])


def notes(table: Table, plan: Plan) -> str:
    """What must be said below a table."""
    return (FROZEN if not table.counts else "") + table.note


def terminal(table: Table, lines: Sequence[Line], plan: Plan) -> str:
    if table.counts:
        body = render(("", "parameters"), [[line.row.label, f"{line.parameters:,}"] for line in lines], "lr")
    else:
        full = full_line(lines)
        body = render(columns(), [cells(line, full) for line in lines], "l" + "r" * (len(columns()) - 1))
    return f"Table {table.name}: {table.title}\n{body}{notes(table, plan)}\n"


def markdown(table: Table, lines: Sequence[Line], plan: Plan) -> str:
    full = full_line(lines)
    rows = [columns(), ["---", *["---:"] * (len(columns()) - 1)], *(cells(line, full) for line in lines)]
    text = "\n".join("| " + " | ".join(map(in_markdown, row)) + " |" for row in rows)
    return f"**Table {table.name}: {table.title}**\n\n{text}\n\n{notes(table, plan)}\n"


def latex(table: Table, lines: Sequence[Line], plan: Plan) -> str:
    full = full_line(lines)
    body = [" & ".join(map(in_latex, row)) + r" \\" for row in (columns(), *(cells(line, full) for line in lines))]
    caption = in_latex(f"Table {table.name}: {table.title}. {notes(table, plan)}")
    return "\n".join(
        [
            r"\begin{table}",
            rf"  \caption{{{caption}}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(columns()) - 1)}}}",
            r"    \hline",
            f"    {body[0]}",
            r"    \hline",
            *(f"    {line}" for line in body[1:]),
            r"    \hline",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def spreadsheet(table: Table, lines: Sequence[Line]) -> str:
    """CSV, a line a row, figures in percent and unrounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    extra = [f"{metric} {what}" for metric in METRICS for what in ("mean", "deviation", "paper")]
    writer.writerow(["table", "row", *extra, "parameters", "seconds", "seeds"])
    for line in lines:
        figures: list[object] = []
        for i, metric in enumerate(METRICS):
            found = [100 * line.mean(metric), 100 * line.deviation(metric)]
            figures += [*("" if np.isnan(x) else x for x in found), line.row.paper[i] if line.row.paper else ""]
        seconds = line.mean("seconds")
        writer.writerow(
            [
                table.name,
                line.row.label,
                *figures,
                line.parameters,
                "" if np.isnan(seconds) else seconds,
                len(line.results),
            ]
        )
    return text.getvalue()


def plot(tables: Mapping[str, tuple[Table, Sequence[Line]]], out: Path) -> None:
    """Points with deviations, ours beside the paper's, a panel a table: change of m_vIoU against the full model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [(t, lines) for t, lines in tables.values() if not t.counts and any(line.results for line in lines)]
    if not shown:
        return
    heights = [len(lines) for _, lines in shown]
    figure, axes = pyplot.subplots(
        len(shown), 1, figsize=(7, 0.8 + 0.36 * sum(heights) + 0.5 * len(shown)), squeeze=False, sharex=True,
        gridspec_kw={"height_ratios": [h + 1 for h in heights]}, layout="constrained",
    )  # fmt: skip
    for axis, (table, lines) in zip(axes[:, 0], shown, strict=True):
        full = full_line(lines)
        for y, line in enumerate(lines):
            change = 100 * (line.mean("m_vIoU") - full.mean("m_vIoU"))
            deviation = 100 * line.deviation("m_vIoU")
            axis.errorbar(
                change, y, xerr=None if np.isnan(deviation) else deviation, fmt="o", color="#1f77b4", capsize=3
            )
            if line.row.paper and full.row.paper:
                axis.plot(
                    line.row.paper[1] - full.row.paper[1], y, marker="D", color="#d62728", mfc="none", linestyle=""
                )
        axis.set_yticks(range(len(lines)), [line.row.label for line in lines])
        axis.invert_yaxis()
        axis.axvline(0, color="#999999", linewidth=0.8)
        axis.set_title(f"{table.name}: {table.title}", loc="left", fontsize=9)
    axes[-1, 0].set_xlabel("m_vIoU against the full model, points (dots: ours, mean ± deviation; diamonds: paper)")
    figure.savefig(out, dpi=130)
    pyplot.close(figure)


def write_all(out: Path, found: Mapping[str, tuple[Table, Sequence[Line]]], plan: Plan) -> None:
    """tables.md, tables.csv, tables.tex and plot.png of what is finished."""
    write_atomic(out / "tables.md", "\n".join(markdown(t, lines, plan) for t, lines in found.values()))
    write_atomic(out / "tables.tex", "\n".join(latex(t, lines, plan) for t, lines in found.values()))
    sheets = [spreadsheet(t, lines) for t, lines in found.values()]
    write_atomic(out / "tables.csv", sheets[0] + "".join(s.split("\n", 1)[1] for s in sheets[1:]))
    plot(found, out / "plot.png")
