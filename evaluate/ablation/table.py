"""Results of an ablation in the paper's form: mean ± deviation over seeds, interval over videos, and cost.

The paper's figures are added for runs on the paper's own split.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...atomic import make_folder, write_atomic
from ...cache.upkeep.summary import size
from ..bootstrap import Interval, intervals
from ..paper_figures import not_ablated
from ..styles import Written, write_table
from ..tables import spread
from .grid import Row, Table
from .plan import Caches, Cell, amount, cell_of, open_caches, parameters
from .request import AblateRequest

if TYPE_CHECKING:
    from pandas import DataFrame

METRICS = ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5")
FROZEN = "Encoders are frozen {where} and trained in the paper: compare differences between rows, not its figures. "


@dataclass(frozen=True)
class Line:
    """One row of a table with the results of its finished cells. Fractions; NaN if nothing is finished.

    ``row`` has no figures of the paper if they must not be shown beside the results.
    """

    row: Row
    parameters: int
    results: list[dict[str, Any]]
    interval: Interval = (float("nan"), float("nan"))
    """95 % interval of m_vIoU, averaged over seeds, by resampling test videos; see `bootstrap`."""
    no_paper: str = ""
    """Why the paper's figures are left out."""

    def mean(self, key: str) -> float:
        return float(np.mean([r[key] for r in self.results])) if self.results else float("nan")

    def deviation(self, key: str) -> float:
        """Standard deviation over seeds, with n - 1; NaN for fewer than two."""
        return float(np.std([r[key] for r in self.results], ddof=1)) if len(self.results) > 1 else float("nan")


def lines_of(table: Table, plan: AblateRequest, opened: Caches | None = None) -> list[Line]:
    """Every row of a table with the results of its finished cells, all for the data in the ``opened`` caches.

    The paper's figures stay only if every finished cell scored all of the paper's split.
    """
    opened = opened or open_caches(plan)
    found: list[Line] = []
    for row in table.rows:
        cells = [] if table.counts else [cell_of(row, seed, plan, opened) for seed in range(plan.seeds)]
        done = [cell for cell in cells if cell.result is not None]
        results = [r for cell in done if (r := cell.result) is not None]
        found.append(Line(row, parameters(row, plan, opened), results, interval_of(done)))
    results = [result for line in found for result in line.results]
    reasons = [why for o in opened.values() if (why := not_ablated(o.cache, plan.test_split, results))]
    if not reasons:
        return found
    return [replace(line, row=replace(line.row, paper=None), no_paper=reasons[0]) for line in found]


def interval_of(cells: Sequence[Cell]) -> Interval:
    """See `Line.interval`. NaN if nothing is finished, or for a single video."""
    kept = [json.loads((cell.folder / "scores.json").read_text("utf-8"))["samples"] for cell in cells]
    if not kept or not kept[0]:
        return float("nan"), float("nan")
    overlaps = np.mean([[sample["vIoU"] for sample in samples] for samples in kept], axis=0)
    return intervals(overlaps[:, None], [sample["video_id"] for sample in kept[0]])[0]


def written(table: Table, lines: Sequence[Line]) -> Written:
    """A table: per metric our figure, its difference from the full model, the paper's figure if shown; then costs."""
    import pandas

    title = f"Table {table.name}: {table.title}"
    if table.counts:
        counts = [[line.row.label, f"{line.parameters:,}"] for line in lines]
        columns = ["", "parameters"]
        return Written(pandas.DataFrame(counts, columns=columns), "lr", title, notes(table, lines), sheet(table, lines))
    full, paper = full_line(lines), any(line.row.paper for line in lines)
    figures = [name for metric in METRICS for name in (metric, "Δ", *(["paper (Δ)"] if paper else []))]
    columns = ["", *figures, "m_vIoU 95 %", "parameters", "training", "memory", "seeds"]
    found = pandas.DataFrame([cells(line, full, paper) for line in lines], columns=columns)
    return Written(found, "l" + "r" * (len(columns) - 1), title, notes(table, lines), sheet(table, lines))


def cells(line: Line, full: Line, paper: bool) -> list[str]:
    """A line as text. ``paper``: with a column of the paper's figures after each of ours."""
    found = [line.row.label]
    for i, metric in enumerate(METRICS):
        mean, deviation = 100 * line.mean(metric), 100 * line.deviation(metric)
        ours = "–" if np.isnan(mean) else f"{mean:.2f}" + ("" if np.isnan(deviation) else f" ± {deviation:.2f}")
        change = mean - 100 * full.mean(metric)
        theirs = "–"
        if line.row.paper and full.row.paper:
            theirs = f"{line.row.paper[i]:.2f} ({line.row.paper[i] - full.row.paper[i]:+.2f})"
        found += [ours, "–" if np.isnan(change) else f"{change:+.2f}", *([theirs] if paper else [])]
    sure, seconds, memory = spread(line.interval), line.mean("seconds"), line.mean("memory_bytes")
    costs = [f"{line.parameters:,}", *(["–"] * 2 if np.isnan(seconds) else [f"{seconds:.0f} s", size(memory)])]
    return [*found, sure or "–", *costs, str(len(line.results))]


def full_line(lines: Sequence[Line]) -> Line:
    """The row that differences refer to: the row that changes nothing, else the first."""
    return next(
        (line for line in lines if not (line.row.settings or line.row.options) and line.row.resolution in (None, 224)),
        lines[0],
    )


def notes(table: Table, lines: Sequence[Line]) -> list[str]:
    """The notes below a table."""
    left_out = lines[0].no_paper if any(row.paper for row in table.rows) else ""
    said = ("" if table.counts else frozen(lines) + data_of(lines) + starts_of(lines)) + left_out + table.note
    return [said] if said else []


def frozen(lines: Sequence[Line]) -> str:
    """A note on the rows whose encoders are frozen."""
    rows = [line.row.label for line in lines if all(r.get("mode", "cached") == "cached" for r in line.results)]
    where = "here" if len(rows) == len(lines) else f"in {', '.join(rows)}"
    return FROZEN.format(where=where) if rows else ""


def data_of(lines: Sequence[Line]) -> str:
    """The training data of all rows, and which weights were scored."""
    found = next((r for line in lines for r in line.results if "data" in r), None)
    if found is None:
        return ""
    split = found.get("selected_on")
    weights = f"the weights that score best on {split} are scored" if split else "its last weights are scored"
    return f"Every row trained on {amount(found['data']['train'])}; {weights}. "


def starts_of(lines: Sequence[Line]) -> str:
    """The weights that rows start from, grouped; empty if all rows start from random weights."""
    found: dict[str, list[str]] = {}
    for line in lines:
        for start in {r["start"]["says"] if r.get("start") else "from random weights" for r in line.results}:
            found.setdefault(start, []).append(line.row.label)
    if found.keys() <= {"from random weights"}:
        return ""
    return "".join(f"{', '.join(rows)}: {start}. " for start, rows in found.items())


def sheet(table: Table, lines: Sequence[Line]) -> DataFrame:
    """One row per line: figures in percent, not rounded; empty if not measured or not published."""
    import pandas

    found = []
    for line in lines:
        row: dict[str, object] = {"table": table.name, "row": line.row.label}
        for i, metric in enumerate(METRICS):
            row[f"{metric} mean"] = 100 * line.mean(metric)
            row[f"{metric} deviation"] = 100 * line.deviation(metric)
            row[f"{metric} paper"] = line.row.paper[i] if line.row.paper else None
        row |= dict(zip(("m_vIoU low", "m_vIoU high"), (100 * end for end in line.interval), strict=True))
        row |= {"parameters": line.parameters, "seconds": line.mean("seconds")}
        row |= {"memory_bytes": line.mean("memory_bytes"), "seeds": len(line.results)}
        found.append(row)
    return pandas.DataFrame(found)


def write_all(out: Path, found: Mapping[str, tuple[Table, Sequence[Line]]]) -> None:
    """Write tables.md, tables.csv, tables.tex and plot.png with the finished cells."""
    import pandas

    tables = [written(*each) for each in found.values()]
    make_folder(out)
    for name, style in (("tables.md", "markdown"), ("tables.tex", "latex")):
        write_atomic(out / name, "\n".join(write_table(table, style) for table in tables))
    sheets = pandas.concat([table.sheet for table in tables if table.sheet is not None])
    write_atomic(out / "tables.csv", write_table(Written(sheets, ""), "csv"))
    plot(found, out / "plot.png")


def plot(tables: Mapping[str, tuple[Table, Sequence[Line]]], out: Path) -> None:
    """Plot the change of m_vIoU against the full model, with deviations, ours and the paper's. One panel per table."""
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
    paper = any(line.row.paper for _, lines in shown for line in lines)
    marks = "dots: ours, mean ± deviation" + ("; diamonds: paper" if paper else "")
    against = full_line(shown[0][1]).row.label if len(shown) == 1 else "the full model"
    axes[-1, 0].set_xlabel(f"m_vIoU against {against}, points ({marks})")
    figure.savefig(out, dpi=130)
    pyplot.close(figure)
