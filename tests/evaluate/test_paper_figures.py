"""Published figures stand beside their own split, whole, and beside nothing that only shares its name and format."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling
from stvg.evaluate.ablation.grid import FULL, TABLES
from stvg.evaluate.ablation.plan import cells_of
from stvg.evaluate.ablation.request import AblateRequest
from stvg.evaluate.ablation.table import Line, lines_of, plot, written
from stvg.evaluate.metrics import METRICS, SampleScore, Scores
from stvg.evaluate.paper_figures import ABLATED, PUBLISHED, published_beside
from stvg.evaluate.report.frames import Taken
from stvg.evaluate.report.page import render
from stvg.evaluate.styles import STYLES, write_table
from stvg.evaluate.tables import format_table
from stvg.extract.datasets.table import DATASETS, published_sentences
from stvg.heads.training.options import TrainRequest
from stvg.requested import PROTOCOLS

from .cells import finish
from .pages import made_up

WHOLE = sorted(PUBLISHED)
GROUPS = {"vidstg": ("declarative", "interrogative"), "hcstvg-v1": ("all",)}


def scores_of(groups: Sequence[str], total: int, missing: int = 0) -> Scores:
    """Made-up means of ``total`` samples, two of which are there to take intervals from."""
    samples = [SampleScore(i, f"v{i}", "a sentence", g, 0.5, 0.25, 0.125) for g in groups for i in range(2)]
    means = dict.fromkeys(groups, dict.fromkeys(METRICS, 0.5))
    return Scores("tubedetr", Sampling(5, 100), total - missing, [f"m{i}" for i in range(missing)], means, samples)


def published(dataset: str, split: str) -> int:
    found = published_sentences(dataset, split)
    assert found
    return found


def whole(dataset: str, split: str, missing: int = 0) -> Scores:
    return scores_of(GROUPS[dataset], published(dataset, split), missing)


def test_a_split_of_one_sentence_more_or_less_is_another_split() -> None:
    for dataset, split in PUBLISHED:
        count = published(dataset, split)
        for scored in (count - 1, count, count + 1):
            assert bool(published_beside(scores_of(GROUPS[dataset], scored), dataset, split).rows) == (scored == count)
            assert not published_beside(scores_of(GROUPS[dataset], scored), "json", split).rows


def test_every_published_figure_is_of_a_split_whose_size_is_known() -> None:
    assert all(published_sentences(dataset, split) for dataset, split in PUBLISHED)
    assert PUBLISHED[ABLATED]["all"]["FSM, paper, 224"] == FULL == (47.15, 34.00, 54.14, 29.74)


def test_published_figures_order_by_threshold_and_belong_to_known_columns() -> None:
    for groups in PUBLISHED.values():
        for figures in (row for rows in groups.values() for row in rows.values()):
            assert len(figures) == len(METRICS) - 1
            assert all(0 < figure < 100 for figure in figures)
            assert figures[2] > figures[3]


@pytest.mark.parametrize("style", STYLES)
def test_published_rows_stand_beside_the_group_they_are_of(style: str) -> None:
    text = format_table(whole("vidstg", "test"), dataset="vidstg", split="test", style=style)
    lines = [line for line in text.splitlines() if line.strip()[:1].isalpha() or "|" in line]  # not those of intervals
    mine = [i for i, line in enumerate(lines) if "this run" in line]
    assert len(mine) == 2
    for i, group, fsm in zip(mine, ("declarative", "interrogative"), ("49.09", "47.56"), strict=True):
        assert group in lines[i + 1]
        assert "FSM" in lines[i + 1]
        assert fsm in lines[i + 1]
        assert "TubeDETR" in lines[i + 2]
        assert "STCAT@224" in lines[i + 3]


@pytest.mark.parametrize("style", STYLES)
def test_no_published_row_stands_beside_another_dataset_or_split(style: str) -> None:
    both = whole("vidstg", "test")
    named = [("vidstg", "val"), ("hcstvg-v2", "test"), ("hcstvg-v1", "train"), ("synthetic", "test"), (None, "test")]
    for dataset, split in named:
        alone = format_table(both, dataset=dataset, split=split, style=style)
        assert "FSM" not in alone
        assert "ublished" not in alone, "nothing to explain"


@pytest.mark.parametrize("style", ["terminal", "markdown", "latex"])
def test_published_rows_come_with_the_warning_that_they_were_trained_end_to_end(style: str) -> None:
    text = format_table(whole("hcstvg-v1", "test"), dataset="hcstvg-v1", split="test", style=style)
    assert "trained end to end" in text
    assert "ranks variants" in text


@pytest.mark.parametrize("style", STYLES)
def test_synthetic_data_in_the_format_of_vidstg_gets_no_published_row_but_the_reason(style: str) -> None:
    text = format_table(scores_of(GROUPS["vidstg"], 368), dataset="vidstg", split="test", style=style)
    assert "FSM" not in text
    assert "49.09" not in text
    if style == "csv":  # every line of it is data
        assert len(list(csv.DictReader(io.StringIO(text)))) == 2
    else:
        assert "of the 10,303 sentences of vidstg test, and these 368 are not that split" in text


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("missing", [1, 40, 10_287])
def test_published_figures_stand_beside_a_run_only_when_every_sample_was_scored(protocol: str, missing: int) -> None:
    part = replace(whole("vidstg", "test", missing=missing), protocol=protocol)
    beside = published_beside(part, "vidstg", "test")
    assert not beside.rows
    assert f"of the 10,303 sentences of vidstg test, and only {10_303 - missing:,} of them were scored" in beside.note
    assert not published_beside(scores_of(GROUPS["vidstg"], 10_263), "vidstg", "test").rows
    assert not published_beside(scores_of(GROUPS["vidstg"], 10_304, missing=1), "vidstg", "test").rows, (
        "of another split"
    )
    assert published_beside(whole("vidstg", "test"), "vidstg", "test").rows == PUBLISHED["vidstg", "test"]


@pytest.mark.parametrize("style", STYLES)
def test_no_style_of_table_sets_published_figures_beside_a_part_of_the_split(style: str) -> None:
    text = format_table(whole("hcstvg-v1", "test", missing=1), dataset="hcstvg-v1", split="test", style=style)
    assert "STCAT" not in text
    assert style == "csv" or "only 1,159 of them were scored" in text


def test_a_report_draws_published_figures_on_the_same_condition() -> None:
    findings = made_up(dataset="vidstg")
    few = findings.scores
    page = render(replace(findings, scores=replace(few, scored=10_303)), [], [], Taken())
    assert "STCAT@224" in page
    assert "trained end to end" in page
    part = replace(few, missing=[f"m{i}" for i in range(10_303 - few.scored)])
    for scores in (few, part):
        page = render(replace(findings, scores=scores), [], [], Taken())
        assert "STCAT@224" not in page
        assert "10,303 sentences of vidstg test" in page


def test_a_command_never_sets_published_figures_beside_synthetic_videos(
    stvg: Callable[..., Any], synthetic: Path, tmp_path: Path
) -> None:
    from stvg.extract.datasets.readers import read_annotations

    samples = read_annotations("vidstg", synthetic, "test").samples
    lines = [
        {
            "sample_id": s.sample_id,
            "start": s.moment[0],
            "end": s.moment[1],
            "boxes": {str(s.moment[0]): s.boxes[0].tolist()},
        }
        for s in samples
    ]
    (tmp_path / "tubes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--predictions", tmp_path / "tubes.jsonl", "--dataset", "vidstg", "--annotations", synthetic]
    found = stvg("evaluate", *words)
    assert found.code == 0, found.err
    assert "FSM" not in found.out
    assert f"these {len(samples)} are not that split" in found.out


PAPER = TrainRequest("paper-hcstvg")


def lines_with_results(plan: AblateRequest, name: str, missing: int = 0) -> list[Line]:
    """``missing``: samples that the last cell did not score."""
    total = Cache.open(plan.caches[None]).samples.splits.count(plan.test_split)
    cells = cells_of([TABLES[name]], plan)
    for cell in cells:
        left_out = missing if cell is cells[-1] else 0
        finish(cell, 0.25, scored=total - left_out, missing=left_out)
    return lines_of(TABLES[name], plan)


def test_an_ablation_of_another_split_shows_its_own_figures_alone_and_says_why(
    tiny_cache: Path, tmp_path: Path
) -> None:
    lines = lines_with_results(AblateRequest(out=tmp_path, caches={None: tiny_cache}, asked=PAPER), "IV")
    for text in (write_table(written(TABLES["IV"], lines), style) for style in ("terminal", "markdown", "latex")):
        assert "25.00" in text
        assert "paper (" not in text
        assert "44.59" not in text
        assert "HC-STVG v1's test split, and this cache holds another" in text
    assert all(
        row["m_vIoU paper"] == ""
        for row in csv.DictReader(io.StringIO(write_table(written(TABLES["IV"], lines), "csv")))
    )
    plot({"IV": (TABLES["IV"], lines)}, tmp_path / "plot.png")


def test_an_ablation_of_the_papers_split_stands_beside_the_paper(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The split that this cache holds is declared to be the paper's: no cache of 1,160 videos is made for a test."""
    monkeypatch.setitem(DATASETS["vidstg"].sentences, "test", Cache.open(tiny_cache).samples.splits.count("test"))
    monkeypatch.setattr("stvg.evaluate.paper_figures.ABLATED", ("vidstg", "test"))
    lines = lines_with_results(AblateRequest(out=tmp_path, caches={None: tiny_cache}, asked=PAPER), "IV")
    text = re.sub(" +", " ", write_table(written(TABLES["IV"], lines), "markdown"))
    assert "| without | 25.00 | +0.00 | 44.59 (-2.56) |" in text
    assert "left out" not in text
    rows = list(csv.DictReader(io.StringIO(write_table(written(TABLES["IV"], lines), "csv"))))
    assert float(rows[1]["m_vIoU paper"]) == 31.14
    train = AblateRequest(out=tmp_path / "train", caches={None: tiny_cache}, asked=PAPER, test_split="train")
    assert "left out" in write_table(written(TABLES["IV"], lines_with_results(train, "IV")), "markdown")
    part = lines_with_results(
        AblateRequest(out=tmp_path / "part", caches={None: tiny_cache}, asked=PAPER), "IV", missing=1
    )
    for text in (write_table(written(TABLES["IV"], part), style) for style in ("terminal", "markdown", "latex")):
        assert "paper (" not in text
        assert "sentences of the split, and a cell scored" in text
    assert all(
        row["m_vIoU paper"] == ""
        for row in csv.DictReader(io.StringIO(write_table(written(TABLES["IV"], part), "csv")))
    )
