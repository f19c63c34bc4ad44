"""Batches on their way to a GPU, whose streams are made up: a copy begins one batch early, and the device waits for it."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import torch

from stvg.heads.training.ahead import copied_ahead


class Log(list):
    """What happened, and the parts of `torch.cuda` that are asked for it."""

    def Stream(self, device):  # torch's name
        return SimpleNamespace(record_event=lambda: f"copied {self[-1].split()[-1]}")

    @contextmanager
    def stream(self, of):
        self.append("on its own stream")
        yield

    def current_stream(self, device):
        return SimpleNamespace(wait_event=lambda event: self.append(f"the step waits for {event}"))

    def is_available(self):
        return True


class Stub:
    def __init__(self, log, name):
        self.log, self.name = log, name
        self.inputs = SimpleNamespace(maps=SimpleNamespace())
        self.targets, self.live = None, ()

    def to(self, device):
        self.log.append(f"copy {self.name}")
        return self


def test_the_next_batch_is_under_way_before_a_step_begins_and_a_rank_without_a_sample_keeps_its_place(monkeypatch):
    log = Log()
    monkeypatch.setattr(torch, "cuda", log)
    batches = [Stub(log, "a"), None, Stub(log, "b")]
    for batch in copied_ahead(iter(batches), torch.device("cuda")):
        log.append(f"step {batch and batch.name}")
    happened = [entry for entry in log if entry != "on its own stream"]
    assert happened.index("copy b") < happened.index("step None")
    assert [entry for entry in happened if entry.startswith("step")] == ["step a", "step None", "step b"]
    assert happened.index("the step waits for copied a") < happened.index("step a")
    assert log[log.index("copy b") - 1] == "on its own stream"


def test_on_a_cpu_batches_come_as_they_are_read():
    log = Log()
    read = copied_ahead(iter([Stub(log, "a"), Stub(log, "b")]), torch.device("cpu"))
    assert next(read).name == "a"
    assert log == ["copy a"]
