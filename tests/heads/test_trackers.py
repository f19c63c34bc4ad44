"""Trackers get every number of metrics.jsonl, stay on this machine unless told otherwise, and know a run that goes on."""

from __future__ import annotations

import json
import struct
import sys

import pytest
import torch

from stvg.cache.index import Cache
from stvg.errors import UsageError
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import train
from stvg.heads.training.state import Run
from stvg.heads.training.trackers.contract import known_id, scalars
from stvg.heads.training.trackers.table import TRACKERS, tracked

SETTINGS = ("model.d=32", "model.ffn=48", "train.epochs=1", "train.batch_size=6", "train.log_every=2")
SCORES = {"m_vIoU": 0.25, "vIoU@0.3": 0.5}


def start(cache, folder, *settings):
    experiment = load_experiment("tiny", [*SETTINGS, *settings])
    return Run(folder, Cache.open(cache), experiment, "train", torch.device("cpu"))


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def followed(tiny_cache, tmp_path_factory):
    """The folder of a run with every tracker, interrupted after one epoch and finished with the second."""
    folder = tmp_path_factory.mktemp("runs") / "fsm"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        for epochs in (1, 2):
            run = start(tiny_cache, folder, f"train.epochs={epochs}", "train.lr_drop=9", "train.warmup=0")
            run.resume()
            train(run, lambda model: SCORES, track=list(TRACKERS))
    return folder


def numbers(folder):
    """Every number of the metrics file: name → [(step, value)]."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines(folder):
        for name, value in scalars(line).items():
            found.setdefault(name, []).append((line["step"], pytest.approx(value, rel=1e-6)))
    assert {"loss/loss", "rate/lr", "speed/wait", "validation/m_vIoU"} <= found.keys()
    return found


def test_tensorboard_shows_every_number_of_the_metrics_file(followed):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(followed))
    events.Reload()
    for name, expected in numbers(followed).items():
        assert [(e.step, e.value) for e in events.Scalars(name)] == expected, name


def test_mlflow_has_one_run_with_every_number_and_the_settings_in_files_beside_the_run(followed, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(tracking_uri=(followed.parent / "mlruns").as_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'stvg'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("fsm", "FINISHED")
    assert run.info.run_id == known_id(followed, "mlflow")
    assert run.data.params["train.lr"] == "0.003"
    assert run.data.params["split"] == "train"
    for name, expected in numbers(followed).items():
        found = client.get_metric_history(run.info.run_id, name.replace("@", "-"))
        assert sorted((m.step, m.value) for m in found) == expected, name


def records(file):
    """The records of an offline file of Weights & Biases: a log of LevelDB, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no room for a header in this block
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts, at = parts + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""


def test_wandb_has_one_run_with_every_number_in_offline_files(followed):
    found: dict[str, list[tuple[int, float]]] = {}
    files = sorted((followed / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    kept = [record for file in files for record in records(file)]
    assert {record.run.run_id for record in kept if record.run.run_id} == {known_id(followed, "wandb")}
    for record in kept:
        items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
        for name in items.keys() - {"_step", "_runtime", "_timestamp"}:
            found.setdefault(name, []).append((items["_step"], items[name]))
    assert found == numbers(followed)


def test_a_run_that_something_stops_is_not_finished_there(tiny_cache, tmp_path, monkeypatch):
    closed = []

    class Kept:
        def __init__(self, run):
            pass

        def close(self, finished):
            closed.append(finished)

    monkeypatch.setitem(TRACKERS, "kept", "kept:Kept")
    monkeypatch.setattr("stvg.heads.training.trackers.table.resolve_name", lambda name: Kept)
    run = start(tiny_cache, tmp_path)
    with pytest.raises(KeyboardInterrupt), tracked(run, ["kept", "kept"]):
        raise KeyboardInterrupt
    with tracked(run, ["kept"]):
        pass
    assert closed == [False, True]


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
def test_without_its_package_a_tracker_says_what_to_install(name, module, tiny_cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with (
        pytest.raises(UsageError, match=rf"--track {name} needs .*\n.*\n.*uv sync .*--extra {name}"),
        tracked(start(tiny_cache, tmp_path / "run"), [name]),
    ):
        pass
