"""Ablations: the paper's rows and figures, cells that run once whatever happens, tables of what is finished."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stvg.cache.index import Cache
from stvg.errors import CacheError, CheckpointError, UsageError
from stvg.evaluate.ablation.cell import require_data, run
from stvg.evaluate.ablation.commands import ablate
from stvg.evaluate.ablation.grid import TABLES, Row, Table, read_grid
from stvg.evaluate.ablation.launch import run_cells
from stvg.evaluate.ablation.plan import cells_of
from stvg.evaluate.ablation.request import AblateRequest
from stvg.evaluate.ablation.table import full_line, lines_of, write_all, written
from stvg.evaluate.styles import write_table
from stvg.heads.checkpoint import load_checkpoint
from stvg.heads.commands import train_head
from stvg.heads.settings import load_experiment
from stvg.heads.table import build_model
from stvg.heads.training.options import TrainRequest
from stvg.heads.training.record import Record
from stvg.heads.training.request import RunRequest
from stvg.heads.training.state import feature_facts

from .cells import finish

CPU = torch.device("cpu")
SMALL = ("model.d=32", "model.heads=4", "model.ffn=32", "model.encoder_layers=1", "model.decoder_layers=1")
SMALL += ("model.max_frames=40", "train.epochs=2", "train.batch_size=8", "train.lr_drop=1", "train.save_every=1")


def a_plan(cache, out, preset="tiny", settings=SMALL, seeds=1, caches=None, **asked):
    return AblateRequest(
        out=out, caches=caches or {None: cache}, asked=TrainRequest(preset, settings, **asked), seeds=seeds
    )


def train_here(cell):
    """What the process of a cell does, in this one."""
    cell.folder.mkdir(parents=True)
    (cell.folder / "cell.json").write_text(json.dumps(cell.job()))
    run(cell.folder, CPU)


def test_the_paper_gains_of_its_prose_follow_from_the_rows():
    """The text of the paper gives these gains; table V's only come out with its labels exchanged."""
    gains = {("III", 2, 0): (0, 1.58), ("IV", 0, 1): (1, 2.86), ("V", 1, 0): (0, 3.98)}
    for (name, better, worse), (metric, gain) in gains.items():
        rows = TABLES[name].rows
        assert rows[better].paper[metric] - rows[worse].paper[metric] == pytest.approx(gain)
    qmm = TABLES["V"].rows
    assert qmm[1].label == "with"
    assert qmm[1].paper[2] - qmm[0].paper[2] == pytest.approx(5.17)


def test_every_row_names_settings_that_exist_and_tables_share_the_full_model(tiny_cache, tmp_path):
    tables = [t for t in TABLES.values() if t.name != "X"]
    cells = cells_of(tables, a_plan(tiny_cache, tmp_path, settings=(), preset="paper-hcstvg"))
    rows = [row for table in tables if not table.counts for row in table.rows]
    full = sum(not row.settings or row.settings == ("model.num_queries=5",) for row in rows)
    assert len(cells) == len(rows) - full + 1
    with pytest.raises(UsageError, match="no cache at resolution 224"):
        cells_of([TABLES["X"]], a_plan(tiny_cache, tmp_path))


def test_parameters_of_table_vii_differ_by_what_each_part_holds(tiny_cache, tmp_path):
    lines = lines_of(TABLES["VII"], a_plan(tiny_cache, tmp_path, settings=(), preset="paper-hcstvg"))
    base = lines[0].parameters
    assert [line.parameters - base for line in lines] == [0, 1_579_008, 100, 0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows: 3", "is no grid"),
        ("rows: []", "is no grid"),
        ("rows: [{set: []}]", "is no grid"),
        ("rows: [{label: b}, {label: a, sets: []}]", r"row 2 \(a\) has no entry 'sets'\n.*\n.*'set'"),
        ("rows: [{label: a}]\ntitel: x", r"a grid has no entry 'titel'\n.*\n.*'title'"),
        ("row: [{label: a}]", "a grid has no entry 'row'"),
        ("rows: [{label: a, set: x}]", "is no grid"),
        ("rows: [{label: 1}, {label: b}, {label: '1', set: [train.lr=1]}]", "rows 1 and 3 have the same label '1'"),
    ],
)
def test_a_grid_that_is_none_is_refused_and_an_entry_that_is_unknown_is_named(tmp_path, text, said):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_grid(tmp_path / "grid.yaml")


def test_the_documented_grid_has_a_cell_of_each_head(tiny_cache, tmp_path):
    page = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
    (tmp_path / "heads.yaml").write_text(page.partition("# heads.yaml\n")[2].partition("```")[0])
    table = read_grid(tmp_path / "heads.yaml")
    cells = cells_of([table], a_plan(tiny_cache, tmp_path, settings=(), preset="tiny"))
    assert [cell.request.experiment.model.head for cell in cells] == ["fsm", "tubedetr", "stcat"]
    assert (
        len({line.parameters for line in lines_of(table, a_plan(tiny_cache, tmp_path, settings=(), preset="tiny"))})
        == 3
    )


def test_a_row_with_a_level_the_cache_lacks_is_refused_before_anything_is_trained(tiny_cache, tmp_path):
    (tmp_path / "grid.yaml").write_text("rows:\n- {label: good}\n- {label: bad, set: ['model.region_levels=[c9]']}\n")
    with pytest.raises(UsageError, match="no level 'c9'"):
        cells_of([read_grid(tmp_path / "grid.yaml")], a_plan(tiny_cache, tmp_path))


def test_a_failing_cell_is_reported_and_the_rest_completed(tiny_cache, tmp_path):
    (tmp_path / "grid.yaml").write_text(
        "rows:\n- {label: good, set: []}\n- {label: bad, set: [train.mode=last-stage]}\n"
    )
    plan, said = a_plan(tiny_cache, tmp_path), []
    table = read_grid(tmp_path / "grid.yaml")
    failed = run_cells(cells_of([table], plan), ["cpu"], lambda cell, error: said.append((cell.row.label, error)))
    assert [cell.row.label for cell in failed] == ["bad"]
    assert dict(said)["good"] is None
    assert "keeps no maps of level c4" in dict(said)["bad"]
    lines = lines_of(table, plan)
    assert [len(line.results) for line in lines] == [1, 0]
    assert "–" in write_table(written(table, lines), "markdown")


def test_a_killed_ablation_goes_on_and_gives_the_table_of_an_unbroken_one(stvg, tiny_cache, tmp_path):
    (tmp_path / "grid.yaml").write_text(
        "rows:\n- {label: with, set: []}\n- {label: 'w/o | \"it\"', set: [model.fusion.gate=false]}\n"
    )
    words = ["--cache", str(tiny_cache), "--grid", str(tmp_path / "grid.yaml"), "--preset", "tiny", "--devices", "cpu"]
    words += [w for s in SMALL for w in ("--set", s)]
    command = [sys.executable, "-m", "stvg.cli", "ablate", *words, "--out"]
    broken = subprocess.Popen([*command, str(tmp_path / "broken")], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip  # noqa: E501
    deadline = time.monotonic() + 600
    while not (done := list((tmp_path / "broken").glob("cells/*/result.json"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(broken.pid, signal.SIGKILL)
    broken.wait()
    assert len(done) == 1
    before = done[0].stat().st_mtime_ns
    again = stvg("ablate", *words, "--out", tmp_path / "broken")
    assert again.code == 0, again.err
    assert "2 cells, 1 finished before, 0 failed" in again.out
    assert done[0].stat().st_mtime_ns == before
    for cell in cells_of([read_grid(tmp_path / "grid.yaml")], a_plan(tiny_cache, tmp_path / "whole")):
        train_here(cell)
    whole = stvg("ablate", *words, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    assert "2 finished before" in whole.out
    tables = []
    for folder in ("broken", "whole"):
        rows = list(csv.DictReader(io.StringIO((tmp_path / folder / "tables.csv").read_text())))
        tables.append([{k: v for k, v in row.items() if k not in ("seconds", "memory_bytes")} for row in rows])
        assert (tmp_path / folder / "plot.png").stat().st_size > 1000
    assert tables[0] == tables[1]
    assert [row["row"] for row in tables[0]] == ["with", 'w/o | "it"']


def test_a_cell_belongs_to_the_data_it_trained_on_and_says_when_the_cache_holds_others(own_cache, tmp_path):
    table, plan = Table("g", "g", (Row("base"),)), a_plan(own_cache, tmp_path / "out")
    unit = sorted((own_cache / "videos").iterdir())[0]
    moved = unit.rename(tmp_path / unit.name)
    (few,) = cells_of([table], plan)
    few.folder.mkdir(parents=True)
    (few.folder / "cell.json").write_text(json.dumps({"data": few.data}))
    (few.folder / "result.json").write_text(json.dumps({"m_vIoU": 0.5}))
    assert few.news() == ""
    moved.rename(unit)
    (all_of_them,) = cells_of([table], plan)
    assert all_of_them.folder != few.folder
    assert all_of_them.result is None
    assert "base, seed 0, trains again: the cache held other data then" in all_of_them.news()
    assert lines_of(table, plan)[0].results == []


def test_rows_that_differ_in_nothing_that_moves_a_step_are_one_cell(tiny_cache, tmp_path):
    rows = (Row("base"), Row("the same", ("train.log_every=2", "train.save_every=3")), Row("other", ("train.lr=1",)))
    assert len(cells_of([Table("g", "g", rows)], a_plan(tiny_cache, tmp_path))) == 2


@pytest.fixture
def weights(tiny_cache, tmp_path):
    """A folder in which two heads of the small size lie, as `stvg weights import` writes them."""
    facts = feature_facts(Cache.open(tiny_cache).recipe, "cached")
    for seed in (1, 2):
        head = build_model(load_experiment("tiny", SMALL).model, facts, seed)
        save_file({k: v.contiguous() for k, v in head.state_dict().items()}, tmp_path / f"{seed}.safetensors")
    return tmp_path


def test_every_option_of_a_run_is_one_of_a_table_and_reaches_its_cells(tiny_cache, tmp_path):
    """`train-head` and `ablate` take the same; what is asked of the one is asked of every cell of the other."""
    shared = {f.name for f in fields(TrainRequest)}
    for command in (train_head, ablate):
        assert shared <= {p.name for p in command.params}
    asked = {
        "mode": "text",
        "videos": tmp_path,
        "backbone_weights": str(tmp_path / "b.pth"),
        "text_weights": "random",
        "weights_seed": 7,
        "split": "train",
        "val_split": "test",
        "protocol": "dense",
    }
    for cell in cells_of([TABLES["III"]], a_plan(tiny_cache, tmp_path, **asked)):
        request = RunRequest.from_json(json.loads(json.dumps(cell.job()["request"])), "cell.json")
        assert request == cell.request
        assert request.experiment.train.mode == "text"
        sources = {"videos": str(tmp_path), "backbone_weights": asked["backbone_weights"], "weights_seed": 7}
        assert request.sources.items() >= {**sources, "text_weights": "random"}.items()
        assert (request.val_split, request.protocol) == ("test", "dense")


def test_a_table_that_starts_from_other_weights_has_other_cells_the_same_weights_the_same(
    tiny_cache, weights, tmp_path
):
    def folders(**asked):
        return [
            cell.folder for cell in cells_of([Table("g", "g", (Row("base"),))], a_plan(tiny_cache, tmp_path, **asked))
        ]

    (tmp_path / "copy").mkdir()
    shutil.copy(weights / "1.safetensors", tmp_path / "copy/head.safetensors")
    scratch, first, second = folders(), folders(init=weights / "1.safetensors"), folders(init=weights / "2.safetensors")
    assert len({*scratch, *first, *second}) == 3
    assert folders(init=tmp_path / "copy") == first
    assert folders(val_split="test") != scratch


def test_a_row_may_start_from_weights_of_its_own_or_from_none(tiny_cache, weights, tmp_path):
    (weights / "grid.yaml").write_text(
        "rows:\n- {label: as all}\n- {label: other, init: 2.safetensors}\n- {label: from scratch, init: none}\n"
        "- {label: another head, set: [model.head=tubedetr, model.stride=1, model.fast=false]}\n"
    )
    table = read_grid(weights / "grid.yaml")
    cells = cells_of([table], a_plan(tiny_cache, tmp_path, init=weights / "1.safetensors"))
    assert [cell.request.init and Path(cell.request.init).name for cell in cells] == [
        "1.safetensors",
        "2.safetensors",
        None,
        "1.safetensors",
    ]
    first, second, none, third = (cell.started_from for cell in cells)
    assert len({first, second, none}) == 3
    assert (none, third) == (None, first)
    assert (
        full_line(lines_of(table, a_plan(tiny_cache, tmp_path, init=weights / "1.safetensors"))).row.label == "as all"
    )


def test_weights_that_do_not_fit_a_row_are_refused_before_any_row_trains(tiny_cache, weights, tmp_path):
    rows = (Row("good"), Row("wide", ("model.ffn=64",)))
    with pytest.raises(CheckpointError, match="does not fit this head"):
        cells_of([Table("g", "g", rows)], a_plan(tiny_cache, tmp_path, init=weights / "1.safetensors"))


def test_a_cell_starts_from_the_weights_of_the_table_and_says_what_they_lack(tiny_cache, weights, tmp_path):
    """One cell in this process: its record, its first weights, and what its table says; then other weights in the place."""
    settings = (*SMALL, "train.epochs=0")
    plan = a_plan(tiny_cache, tmp_path / "out", settings=settings, init=weights / "1.safetensors")
    table = Table("g", "g", (Row("one"), Row("other head", ("model.head=stcat", "model.max_frames=8"))))
    for cell in cells_of([table], plan):
        train_here(cell)
        record = Record.read(cell.folder / "run/record.json")
        assert record.started_from == cell.started_from
        asked = cell.request.experiment
        chosen = replace(asked, train=replace(asked.train, accumulate=1))
        assert record.request == replace(cell.request, device="cpu", experiment=chosen)
    saved = load_checkpoint(cells_of([table], plan)[0].folder / "run/best.safetensors").group("ema.head")
    given = load_file(weights / "1.safetensors")
    assert all(torch.equal(saved[k], v) for k, v in given.items() if not k.startswith("standards."))
    text = write_table(written(table, lines_of(table, plan)), "markdown")
    assert "one: the head starts from" in text
    assert "encoder.temporal_layers" in text
    (cell,) = cells_of([Table("g", "g", (Row("third", ("train.lr=1",)),))], plan)
    shutil.copy(weights / "2.safetensors", weights / "1.safetensors")
    with pytest.raises(CheckpointError, match="changed while the table was made"):
        train_here(cell)


def test_what_chose_the_scored_weights_and_which_rows_kept_their_encoders_frozen_is_said(tiny_cache, tmp_path):
    plan, table = a_plan(tiny_cache, tmp_path), Table("g", "g", (Row("a"), Row("b", ("train.mode=text",))))
    for cell, mode in zip(cells_of([table], plan), ("cached", "text"), strict=True):
        finish(cell, 0.5, selected_on="val", data=cell.data, mode=mode)
    text = write_table(written(table, lines_of(table, plan)), "markdown")
    assert "Encoders are frozen in a and trained in the paper" in text
    assert "the weights that score best on val are scored" in text


def test_a_row_that_trains_end_to_end_counts_the_samples_whose_videos_are_there(own_cache, synthetic, tmp_path):
    """Whatever features the cache has: none here. The row beside it trains on features."""
    for room in ("videos", "text"):
        shutil.rmtree(own_cache / room)
    videos = shutil.copytree(synthetic / "vidor/video", tmp_path / "videos")
    table = Table("g", "g", (Row("features"), Row("pixels", ("train.mode=end-to-end",))))
    plan, cache = a_plan(own_cache, tmp_path, videos=videos), Cache.open(own_cache)
    features, pixels = cells_of([table], plan)
    every = {split: len(cache.annotations.rows(split)) for split in ("train", "test")}
    assert {part: facts["samples"] for part, facts in features.data.items()} == {"train": 0, "test": 0}
    assert {part: facts["samples"] for part, facts in pixels.data.items()} == every
    require_data(cache, pixels.request, pixels.job())
    table_of = cache.samples
    (videos / table_of.video(cache.annotations.rows("train")[0]).path).unlink()
    assert cells_of([table], plan)[1].data["train"]["samples"] < every["train"]
    with pytest.raises(CacheError, match=r"changed while the table was made: train had \d+ samples of 6 videos"):
        require_data(cache, pixels.request, pixels.job())


def test_a_resolution_that_is_named_twice_is_refused(stvg, tiny_cache, tmp_path):
    others = [w for name in ("a", "b") for w in ("--cache-at", 320, tmp_path / name)]
    ran = stvg("ablate", "--cache", tiny_cache, *others, "--out", tmp_path / "out")
    assert ran.code == 2
    assert "--cache-at names a resolution twice" in ran.err


def test_caches_with_other_videos_are_no_table(tiny_cache, own_cache, tmp_path):
    shutil.rmtree(sorted((own_cache / "videos").iterdir())[0])
    with pytest.raises(UsageError, match="holds other videos or samples of"):
        cells_of([], a_plan(tiny_cache, tmp_path, caches={None: tiny_cache, 320: own_cache}))


def test_a_cell_whose_cache_changed_after_the_table_began_is_not_trained(tiny_cache, own_cache, tmp_path):
    table, plan = Table("g", "g", (Row("base"),)), a_plan(own_cache, tmp_path / "out")
    (cell,) = cells_of([table], plan)
    require_data(Cache.open(own_cache), cell.request, cell.job())
    shutil.rmtree(sorted((own_cache / "videos").iterdir())[0])
    with pytest.raises(CacheError, match="changed while the table was made"):
        require_data(Cache.open(own_cache), cell.request, cell.job())


def test_means_deviations_and_differences_are_those_of_the_seeds(tiny_cache, tmp_path):
    plan = a_plan(tiny_cache, tmp_path, seeds=2)
    table = TABLES["IV"]
    for cell, value in zip(cells_of([table], plan), (0.5, 0.3, 0.6, 0.2), strict=True):
        finish(cell, value)
    lines = lines_of(table, plan)
    assert full_line(lines).row.label == "with gates"
    assert lines[0].mean("m_vIoU") == pytest.approx(0.55)
    assert lines[1].deviation("m_vIoU") == pytest.approx(0.0707, abs=1e-4)
    text = write_table(written(table, lines), "markdown")
    assert "| without | 25.00 ± 7.07 | -30.00 |" in re.sub(" +", " ", text)
    assert "frozen here" in text
    assert lines[0].interval == pytest.approx((0.45, 0.65))  # two videos of 0.65 and 0.45, over both seeds
    assert "45.0–65.0" in text
    assert "2.50 GB" in text
    write_all(tmp_path, {"IV": (table, lines)})
    assert r"25.00 $\pm$ 7.07 & $-$30.00" in (tmp_path / "tables.tex").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "tables.csv").read_text(encoding="utf-8"))))
    assert float(rows[1]["m_vIoU mean"]) == pytest.approx(25)
