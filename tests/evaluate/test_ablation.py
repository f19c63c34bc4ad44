"""Ablations: the paper's rows and figures, cells that run once whatever happens, tables of what is finished."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from stvg.cache.index import Cache
from stvg.errors import CacheError, UsageError
from stvg.evaluate.ablation.cell import require_data
from stvg.evaluate.ablation.grid import TABLES, Plan, Row, Table, cells_of, read_grid
from stvg.evaluate.ablation.launch import job_of, run_cells
from stvg.evaluate.ablation.table import full_line, latex, lines_of, markdown, spreadsheet

SMALL = ("model.d=32", "model.heads=4", "model.ffn=32", "model.encoder_layers=1", "model.decoder_layers=1")
SMALL += ("model.max_frames=40", "train.epochs=2", "train.batch_size=8", "train.lr_drop=1", "train.save_every=1")


def a_plan(cache, out, **changes):
    return Plan(**{"out": out, "caches": {None: cache}, "preset": "tiny", "settings": SMALL, "seeds": 1, **changes})


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
    "text",
    [
        "rows: 3",
        "rows: []",
        "rows: [{set: []}]",
        "rows: [{label: a, sets: []}]",
        "row: [{label: a}]",
        "rows: [{label: a, set: x}]",
    ],
)
def test_a_grid_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(UsageError):
        read_grid(tmp_path / "grid.yaml")


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
    failed = run_cells(cells_of([table], plan), plan, ["cpu"], lambda cell, error: said.append((cell.row.label, error)))
    assert [cell.row.label for cell in failed] == ["bad"]
    assert dict(said)["good"] is None
    assert "keeps no maps of level c4" in dict(said)["bad"]
    lines = lines_of(table, plan)
    assert [len(line.results) for line in lines] == [1, 0]
    assert "–" in markdown(table, lines)


def test_a_killed_ablation_goes_on_and_gives_the_table_of_an_unbroken_one(stvg, tiny_cache, tmp_path):
    (tmp_path / "grid.yaml").write_text(
        "rows:\n- {label: with, set: []}\n- {label: 'w/o | \"it\"', set: [model.fusion.gate=false]}\n"
    )
    words = ["--cache", str(tiny_cache), "--grid", str(tmp_path / "grid.yaml"), "--preset", "tiny", "--devices", "cpu"]
    words += [w for s in SMALL for w in ("--set", s)]
    command = [sys.executable, "-m", "stvg.cli", "ablate", *words, "--out"]
    broken = subprocess.Popen([*command, str(tmp_path / "broken")], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip  # noqa: E501
    deadline = time.monotonic() + 120
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
    whole = stvg("ablate", *words, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    tables = []
    for folder in ("broken", "whole"):
        rows = list(csv.DictReader(io.StringIO((tmp_path / folder / "tables.csv").read_text())))
        tables.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
        assert (tmp_path / folder / "plot.png").stat().st_size > 1000
    assert tables[0] == tables[1]
    assert [row["row"] for row in tables[0]] == ["with", 'w/o | "it"']
    third = stvg("ablate", *words, "--out", tmp_path / "whole")
    assert "2 finished before" in third.out


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


def test_caches_with_other_videos_are_no_table(tiny_cache, own_cache, tmp_path):
    shutil.rmtree(sorted((own_cache / "videos").iterdir())[0])
    with pytest.raises(UsageError, match="holds other videos or samples of"):
        cells_of([], a_plan(tiny_cache, tmp_path, caches={None: tiny_cache, 320: own_cache}))


def test_a_cell_whose_cache_changed_after_the_table_began_is_not_trained(tiny_cache, own_cache, tmp_path):
    table, plan = Table("g", "g", (Row("base"),)), a_plan(own_cache, tmp_path / "out")
    (cell,) = cells_of([table], plan)
    require_data(Cache.open(own_cache), job_of(cell, plan))
    shutil.rmtree(sorted((own_cache / "videos").iterdir())[0])
    with pytest.raises(CacheError, match="changed while the table was made"):
        require_data(Cache.open(own_cache), job_of(cell, plan))


def test_means_deviations_and_differences_are_those_of_the_seeds(tiny_cache, tmp_path):
    plan = a_plan(tiny_cache, tmp_path, seeds=2)
    table = TABLES["IV"]
    for cell, value in zip(cells_of([table], plan), (0.5, 0.3, 0.6, 0.2), strict=True):
        cell.folder.mkdir(parents=True)
        result = dict.fromkeys(("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5"), value) | {"seconds": 10}
        (cell.folder / "result.json").write_text(json.dumps(result))
    lines = lines_of(table, plan)
    assert full_line(lines).row.label == "with gates"
    assert lines[0].mean("m_vIoU") == pytest.approx(0.55)
    assert lines[1].deviation("m_vIoU") == pytest.approx(0.0707, abs=1e-4)
    text = markdown(table, lines)
    assert "| without | 25.00 ± 7.07 | -30.00 |" in text
    assert "frozen here" in text
    assert r"25.00 ± 7.07 & -30.00" in latex(table, lines)
    rows = list(csv.DictReader(io.StringIO(spreadsheet([(table, lines)]))))
    assert float(rows[1]["m_vIoU mean"]) == pytest.approx(25)


def test_cells_on_a_ray_cluster_come_to_what_they_come_to_here(tiny_cache, tmp_path):
    """In processes of their own: a cluster stays with the process that started it."""
    (tmp_path / "grid.yaml").write_text("rows:\n- {label: a}\n- {label: bad, set: [train.mode=last-stage]}\n")
    tables = []
    for name, where in (("ray", ["--launcher", "ray", "--devices", "cpu"]), ("here", ["--devices", "cpu,cpu"])):
        words = ["ablate", "--cache", tiny_cache, "--grid", tmp_path / "grid.yaml", "--preset", "tiny", *where]
        words += [w for s in SMALL for w in ("--set", s)]
        words += ["--out", tmp_path / name]
        ran = subprocess.run([sys.executable, "-m", "stvg", *map(str, words)], capture_output=True, text=True)
        assert ran.returncode == 1, ran.stderr
        assert "2 cells, 0 finished before, 1 failed" in ran.stdout
        rows = list(csv.DictReader(io.StringIO((tmp_path / name / "tables.csv").read_text())))
        tables.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    assert tables[0] == tables[1]
