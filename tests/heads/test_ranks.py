"""Several ranks are one run: the same gradients and weights as one process with the same batches, and they end together."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stvg.cache.batches.order import epoch_order, share_of
from stvg.cache.index import Cache
from stvg.errors import UsageError
from stvg.heads.checkpoint import load_checkpoint
from stvg.heads.fsm.losses import TERMS, LossConfig
from stvg.heads.losses import Criterion
from stvg.heads.settings import load_experiment
from stvg.heads.table import build_model
from stvg.heads.training.loop import train
from stvg.heads.training.ranks import Ranks, Share
from stvg.heads.training.state import Run

from .clips import CLIPS, FACTS, batch, small
from .rank import WIDTH

CPU = torch.device("cpu")
RANK = Path(__file__).parent / "rank.py"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SETTINGS = ("model.d=32", "model.ffn=48", "model.encoder_layers=1", "model.decoder_layers=2", "model.num_queries=2")
SETTINGS += ("train.epochs=2", "train.batch_size=5", "train.accumulate=2", "train.log_every=1", "train.ema=0.9")


@given(st.lists(st.lists(st.integers(), max_size=12), max_size=4), st.integers(1, 5))
def test_the_shares_of_a_batch_are_disjoint_complete_and_alike_in_size(order, parts):
    shares = [share_of(order, part, parts) for part in range(parts)]
    assert [list(chain.from_iterable(of_batch)) for of_batch in zip(*shares, strict=True)] == order
    for of_batch in zip(*shares, strict=True):
        sizes = [len(s) for s in of_batch]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("forms", [("paper", "focal"), ("framewise", "softmax"), ("paper", "focal-all")])
@pytest.mark.parametrize("cuts", [(1, 2), (1, 1), (0, 2)], ids=["three ranks", "one has none", "the first has none"])
def test_every_term_and_gradient_of_a_batch_is_the_sum_over_the_ranks_shares_of_it(forms, cuts):
    """Clips of 7, 3 and 1 slots: every rank pads to another length, and moments weigh differently."""
    criterion = Criterion(LossConfig(mrcl_form=forms[0], label_form=forms[1]))
    model = build_model(small(dropout=0.0, span_dropout=0.0), FACTS, seed=1)
    parts = [p for p in (CLIPS[: cuts[0]], CLIPS[cuts[0] : cuts[1]], CLIPS[cuts[1] :]) if p]

    def terms_of(clips, share):
        inputs, targets = batch(clips)
        return share.criterion(criterion)(model(inputs, targets), targets, inputs.frame_padding)

    def gradients(losses):
        return torch.autograd.grad(torch.stack(losses).sum(), list(model.parameters()), allow_unused=True)

    whole = terms_of(CLIPS, Share(None))
    sizes = torch.tensor([(sum(c.last - c.first + 1 for c in p), len(p)) for p in parts])
    divided = [terms_of(p, Share(share)) for p, share in zip(parts, sizes / sizes.sum(0), strict=True)]
    assert {"l1", "giou", "label", "span", "attention", "anchor", "mrcl", "aux"} == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in divided), value, rtol=1e-5, atol=1e-5, msg=name)
    together = gradients([v for part in divided for v in part.values()])
    for (name, _), ours, theirs in zip(
        model.named_parameters(), together, gradients(list(whole.values())), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4, msg=name)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def two_ranks(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, RANK, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(), check=False)


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The distance of all tensors together, as a share of their length."""
    assert a.keys() == b.keys()
    distance, length = (torch.stack([t.norm() for t in of]).norm() for of in ([a[k] - b[k] for k in a], a.values()))
    return float(distance / length)


def test_two_ranks_are_one_process_with_the_same_batches(tiny_cache, tmp_path, monkeypatch):
    """The last batch of an epoch has one sample: one of the ranks has none. A term was added to the table."""
    monkeypatch.setitem(TERMS, "width", WIDTH)
    settings = (*SETTINGS, "model.dropout=0", "model.span_dropout=0", "train.batch_size=37", "train.epochs=4")
    alone = Run(tmp_path / "one", Cache.open(tiny_cache), load_experiment("tiny", settings), "train", CPU)
    start = {k: v.clone() for k, v in alone.model.state_dict().items()}
    train(alone)
    ran = two_ranks(tiny_cache, tmp_path / "two", *settings)
    assert ran.returncode == 0, ran.stderr
    first, second = (json.loads((tmp_path / f"two/rank{i}.json").read_text()) for i in (0, 1))
    assert first["digest"] == second["digest"]
    assert first["drawn"] != second["drawn"]

    t, ids = alone.experiment.train, [s.sample_id for s in alone.dataset.samples()]
    batches = [epoch_order(alone.dataset, t.batch_size, t.per_video, t.seed, epoch) for epoch in range(t.epochs)]
    assert {len(b[-1]) for b in batches} == {1}
    seen = [[], []]
    for rank, said in enumerate((first, second)):
        for step in range(alone.total_steps):
            seen[rank].append(sorted(i for s, part in said["seen"] if s == step for i in part))
    groups = [chain.from_iterable(of_epoch[i : i + 2]) for of_epoch in batches for i in range(0, len(of_epoch), 2)]
    assert [sorted(a + b) for a, b in zip(*seen, strict=True)] == [sorted(ids[p] for p in g) for g in groups]

    lines = [(tmp_path / k / "metrics.jsonl").read_text().splitlines() for k in ("one", "two")]
    for name in ("loss", "width"):
        losses = [[json.loads(line)[name] for line in of_run] for of_run in lines]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    one, two = (load_checkpoint(tmp_path / k / "last.safetensors") for k in ("one", "two"))
    assert apart(one.group("optimizer"), two.group("optimizer")) < 1e-5
    moved = {k: v - start[k] for k, v in one.group("model").items()}
    # Where the gradient is zero but for rounding (biases of keys, for one), Adam's step is as large as elsewhere.
    assert apart(moved, {k: v - start[k] for k, v in two.group("model").items()}) < 1e-2
    assert apart(one.group("ema"), two.group("ema")) < 1e-3
    # What still ran when Python ends could abort the process that did all its work.
    assert not [name for said in (first, second) for name in said["threads"] if "gloo" in name]
    assert first["diverged"] == second["diverged"]
    assert f"samples    rank 1: {ids[2]}, {ids[3]}\n" in first["diverged"]


def test_the_failure_of_one_rank_ends_the_other_which_names_it(tiny_cache, tmp_path):
    ran = two_ranks(tiny_cache, tmp_path, *SETTINGS, "--fail")
    assert ran.returncode == 1
    assert re.search(r"^CacheError: chunk 7 is damaged\n +rank +1 of 2$", ran.stderr, re.M), ran.stderr
    assert "rank 0 of 2 ends, because rank 1 failed: CacheError: chunk 7 is damaged" in ran.stderr


def test_sigterm_to_torchrun_saves_one_step_for_all_and_the_command_goes_on(tiny_cache, tmp_path):
    words = [
        "-m",
        "stvg",
        "train-head",
        "--cache",
        tiny_cache,
        "--out",
        tmp_path,
        "--preset",
        "tiny",
        "--device",
        "cpu",
    ]
    words += [w for s in (*SETTINGS, "train.epochs=500", "train.save_every=100000") for w in ("--set", s)]
    process = subprocess.Popen([*TORCHRUN, *map(str, words)], env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not (tmp_path / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert said.count("stvg: interrupted; repeat the command to go on") == 1, said
    step = load_checkpoint(tmp_path / "last.safetensors").facts["step"]
    assert step == json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"]


def test_more_ranks_than_samples_in_a_batch_are_refused(tiny_cache, tmp_path):
    experiment = load_experiment("tiny", SETTINGS)
    with pytest.raises(UsageError, match="8 ranks cannot share a batch of 5"):
        Run(tmp_path, Cache.open(tiny_cache), experiment, "train", CPU, ranks=Ranks(0, 8))
