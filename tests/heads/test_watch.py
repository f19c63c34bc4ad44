"""What is seen of a run: its speed, TensorBoard's event files, a profile."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from stvg.cache.index import Cache
from stvg.errors import UsageError
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import train
from stvg.heads.training.profiling import ROWS, Profile
from stvg.heads.training.state import Run
from stvg.heads.training.watch import SPEED, EventFile

SETTINGS = ("model.d=32", "model.ffn=48", "train.epochs=1", "train.batch_size=6", "train.log_every=2")


def start(cache, folder):
    return Run(folder, Cache.open(cache), load_experiment("tiny", SETTINGS), "train", torch.device("cpu"))


@pytest.fixture(scope="module")
def watched(tiny_cache, tmp_path_factory):
    """The folder of a run with everything switched on, and what its profile said."""
    folder, said = tmp_path_factory.mktemp("watched"), []
    run = start(tiny_cache, folder)
    scores = {"m_vIoU": 0.25, "m_tIoU": 0.5}
    train(
        run, lambda model: scores, tensorboard=True, profile=Profile(run.model, 2, folder / "profile.json", said.append)
    )
    return folder, said


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_line_says_how_fast_it_went_what_it_waited_and_what_it_took(watched):
    *steps, validation = lines(watched[0])
    assert "validation" in validation
    assert len(steps) > 2
    for line in steps:
        assert 0 < line["seconds"] < 60
        assert line["samples_per_second"] * line["seconds"] <= 6 * 1.001
        assert 0 <= line["wait"] <= 1
        assert 1e8 < line["memory_bytes"] < 1e11


def test_tensorboard_shows_every_number_of_the_metrics_file(watched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = watched[0]
    events = EventAccumulator(str(folder))
    events.Reload()
    *steps, validation = lines(folder)
    for name in steps[0].keys() - {"step"}:
        tag = f"{'speed' if name in SPEED else 'rate' if name == 'lr' else 'loss'}/{name}"
        found = [(e.step, e.value) for e in events.Scalars(tag)]
        assert found == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in steps], tag
    assert [(e.step, e.value) for e in events.Scalars("validation/m_vIoU")] == [(validation["step"], 0.25)]


def test_without_tensorboard_its_option_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"--tensorboard needs TensorBoard\n.*stvg\[tensorboard\]"):
        EventFile(tmp_path, 0)


def test_a_profile_is_a_trace_and_a_table_of_the_most_expensive_parts(watched):
    folder, (said,) = watched
    names = {event.get("name") for event in json.loads((folder / "profile.json").read_text())["traceEvents"]}
    parts = {"forward: fusion", "forward: encoder", "forward: decoder", "losses", "backward", "optimiser", "data wait"}
    assert parts <= names
    head, *rows, whole, where = said.splitlines()
    assert head.split() == ["part", "ms", "a", "step", "share", "calls"]
    assert len(rows) == ROWS
    assert {row.split("  ")[0] for row in rows[:2]} == {"forward", "backward"}
    assert where.endswith("profile.json")
    cost = [float(row[24:36]) for row in rows]
    assert cost == sorted(cost, reverse=True)
    assert cost[0] < float(whole.split()[1])
