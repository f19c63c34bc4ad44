"""What is seen of a run: its speed and a profile."""

from __future__ import annotations

import json

import pytest
import torch

from stvg.cache.index import Cache
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import train
from stvg.heads.training.profiling import ROWS, Profile
from stvg.heads.training.state import Run

SETTINGS = ("model.d=32", "model.ffn=48", "train.epochs=1", "train.batch_size=6", "train.log_every=2")


def start(cache, folder):
    return Run(folder, Cache.open(cache), load_experiment("tiny", SETTINGS), "train", torch.device("cpu"))


@pytest.fixture(scope="module")
def watched(tiny_cache, tmp_path_factory):
    """The folder of a run with everything switched on, and what its profile said."""
    folder, said = tmp_path_factory.mktemp("watched"), []
    run = start(tiny_cache, folder)
    scores = {"m_vIoU": 0.25, "m_tIoU": 0.5}
    profile = Profile(run.model, 2, folder / "profile.json", said.append)
    train(run, lambda model: scores, track=["tensorboard"], profile=profile)
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
