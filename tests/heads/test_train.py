"""Training: exact resume, a guard that names samples, an order that is a function of seed and epoch, clear refusals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.cache.batches.dataset import CachedDataset
from stvg.cache.batches.order import epoch_order, training_batches
from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling, moment_slots
from stvg.errors import CacheError, CheckpointError, TrainingDiverged
from stvg.heads.checkpoint import load_checkpoint
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import learning_rate, train
from stvg.heads.training.state import Run
from stvg.heads.training.watch import SPEED
from stvg.stop import Interrupted

CPU = torch.device("cpu")
SETTINGS = ("model.d=32", "model.ffn=48", "model.encoder_layers=1", "model.decoder_layers=2", "model.dropout=0.1")
SETTINGS += ("train.epochs=2", "train.batch_size=8", "train.log_every=1", "train.ema=0.9", "train.save_every=100")


def start(cache, folder, *settings):
    return Run(folder, Cache.open(cache), load_experiment("tiny", [*SETTINGS, *settings]), "train", CPU)


def weights(path):
    return load_checkpoint(path).tensors


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class PowerFailure(Exception):
    """Stands for whatever ends a process in the middle of a run."""


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume_gives_bitwise_the_weights_of_an_unbroken_run(tiny_cache, tmp_path, accumulate):
    setting = f"train.accumulate={accumulate}"
    train(start(tiny_cache, tmp_path / "whole", setting))

    def stop(line):
        if line.get("step") == 3:
            raise PowerFailure

    broken = start(tiny_cache, tmp_path / "broken", setting, "train.save_every=2")
    with pytest.raises(PowerFailure):
        train(broken, report=stop)
    torch.manual_seed(999)
    again = start(tiny_cache, tmp_path / "broken", setting, "train.save_every=2")
    assert again.resume()
    assert again.step == 2
    train(again)
    whole, resumed = weights(tmp_path / "whole/last.safetensors"), weights(tmp_path / "broken/last.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    assert [x["loss"] for x in lines(tmp_path / "whole")] == [x["loss"] for x in lines(tmp_path / "broken")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_under_way_saved(tiny_cache, tmp_path, number):
    def interrupt(line):
        if line["step"] == 3:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as stop:
        train(start(tiny_cache, tmp_path), report=interrupt)
    assert stop.value.signal == number
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    again = start(tiny_cache, tmp_path)
    assert again.resume()
    assert again.step == 3


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_says_by_which_signal_it_was_ended_and_goes_on_when_repeated(
    stvg, tiny_cache, tmp_path, number, status
):
    words = ["--preset", "tiny", "--device", "cpu", "--out", tmp_path]
    words += ["--set", "model.ffn=32", "--set", "train.epochs=90", "--set", "train.log_every=1"]

    def interrupt():
        while not (tmp_path / "metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    for _ in range(2):
        (tmp_path / "metrics.jsonl").unlink(missing_ok=True)
        threading.Thread(target=interrupt).start()
        ran = stvg("train-head", "--cache", tiny_cache, *words)
        assert ran.code == status
        assert "stvg: interrupted; repeat the command to go on" in ran.err
    assert re.search(r"going on at step \d+ of ", ran.out)


def test_a_validation_that_a_signal_cut_short_comes_first_when_the_run_goes_on(tiny_cache, tmp_path):
    def interrupted(model):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    with pytest.raises(Interrupted):
        train(start(tiny_cache, tmp_path, "train.eval_every=1"), validate=interrupted)
    again = start(tiny_cache, tmp_path, "train.eval_every=1")
    assert again.resume()
    assert (again.step, again.validated) == (again.steps_per_epoch, 0)
    scored = []
    train(again, validate=lambda model: {"m_vIoU": scored.append(again.step) or 0.5 - again.step})
    assert scored == [again.steps_per_epoch, again.total_steps]
    assert load_checkpoint(tmp_path / "best.safetensors").facts["step"] == again.steps_per_epoch


def test_the_loss_falls_and_every_term_is_logged(tiny_cache, tmp_path):
    train(start(tiny_cache, tmp_path, "train.epochs=12", "model.dropout=0"))
    logged = lines(tmp_path)
    terms = {"l1", "giou", "label", "span", "attention", "aux", "anchor", "mrcl"}
    assert terms < logged[0].keys()
    assert logged[0]["loss"] == pytest.approx(sum(logged[0][k] for k in terms))
    assert logged[-1]["loss"] < 0.8 * logged[0]["loss"]


def test_the_baseline_trains_on_its_own_terms(tiny_cache, tmp_path):
    small = load_experiment("tubedetr", [*SETTINGS, "model.heads=4", "model.max_frames=40", "train.epochs=1"])
    train(Run(tmp_path, Cache.open(tiny_cache), small, "train", CPU))
    assert lines(tmp_path)[-1].keys() == {"step", "loss", "l1", "giou", "span", "attention", "aux", "lr", *SPEED}
    state = load_checkpoint(tmp_path / "last.safetensors").group("model")
    assert state["head.fast_residual.weight"].abs().max() > 0


def test_a_loss_that_is_no_number_stops_the_run_and_names_step_terms_and_samples(tiny_cache, tmp_path):
    run = start(tiny_cache, tmp_path)
    run.save()
    before = (tmp_path / "last.safetensors").read_bytes()
    with torch.no_grad():
        run.model.head.bbox_embed.layers[-1].bias.fill_(torch.nan)
    with pytest.raises(TrainingDiverged, match=r"step 1\n(.|\n)*l1 nan(.|\n)*samples +\d+"):
        train(run)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_a_gradient_that_is_no_number_names_the_samples_of_the_whole_step_and_leaves_a_usable_checkpoint(
    tiny_cache, tmp_path
):
    run = start(tiny_cache, tmp_path, "train.accumulate=2")
    run.model.head.query_embed.weight.register_hook(lambda g: g * torch.inf)
    t = run.experiment.train
    order = epoch_order(run.dataset, t.batch_size, t.per_video, t.seed, 0)
    ids = [str(run.dataset[p].sample.sample_id) for batch in order[:2] for p in batch]
    with pytest.raises(TrainingDiverged) as diverged:
        train(run)
    assert sorted(diverged.value.facts["samples"].replace(";", ",").split(", ")) == sorted(ids)
    assert "gradient norm" in diverged.value.facts["terms"]
    again = start(tiny_cache, tmp_path, "train.accumulate=2")
    assert again.resume()
    assert again.step == 0
    assert all(p.isfinite().all() for p in again.model.parameters())


def test_a_run_of_another_experiment_is_not_continued(tiny_cache, tmp_path):
    train(start(tiny_cache, tmp_path, "train.epochs=1"))
    with pytest.raises(CheckpointError, match=r"train.lr: run has 0\.\d+, asked for 0\.5"):
        start(tiny_cache, tmp_path, "train.epochs=1", "train.lr=0.5").resume()


@pytest.mark.parametrize("cut", [0, 100, 5000, -1])
def test_a_truncated_checkpoint_is_one_clear_error(tiny_cache, tmp_path, cut):
    run = start(tiny_cache, tmp_path)
    path = run.save()
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        start(tiny_cache, tmp_path).resume()


@pytest.fixture(scope="module")
def saved(tiny_cache, tmp_path_factory):
    """A checkpoint, and its bytes."""
    path = start(tiny_cache, tmp_path_factory.mktemp("saved")).save()
    return path, path.read_bytes()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_one_changed_byte_anywhere_in_a_checkpoint_is_an_error_that_names_it(saved, data):
    path, content = saved
    header = 8 + int.from_bytes(content[:8], "little")
    at = data.draw(st.one_of(st.integers(0, header), st.integers(0, len(content) - 1)))
    changed = bytearray(content)
    changed[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_checkpoint(path)
    path.write_bytes(content)
    load_checkpoint(path)


def test_where_the_last_checkpoint_is_damaged_the_one_before_gives_the_same_weights(tiny_cache, tmp_path, caplog):
    train(start(tiny_cache, tmp_path / "whole", "train.save_every=3"))
    run = start(tiny_cache, tmp_path / "run", "train.save_every=3")
    train(run)
    last = tmp_path / "run/last.safetensors"
    content = bytearray(last.read_bytes())
    content[-7] ^= 16
    last.write_bytes(content)
    again = start(tiny_cache, tmp_path / "run", "train.save_every=3")
    assert again.resume()
    assert 0 < again.step < again.total_steps
    assert re.search(r"last.safetensors cannot be read.*checksum.*going on from previous.safetensors", caplog.text)
    train(again)
    whole, resumed = weights(tmp_path / "whole/last.safetensors"), weights(last)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_a_kill_between_the_two_renames_of_a_save_leaves_the_checkpoint_before(tiny_cache, tmp_path):
    run = start(tiny_cache, tmp_path)
    run.save().rename(tmp_path / "previous.safetensors")
    assert start(tiny_cache, tmp_path).resume()


def test_runs_killed_at_random_moments_end_with_the_bits_of_an_undisturbed_one():
    """A small form of the benchmark, in real processes."""
    script = Path(__file__).parents[1] / "benchmarks/resume.py"
    words = [sys.executable, str(script), "--kills", "2", "--modes", "cached"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "| cached | 8 |" in ran.stdout


def test_validation_keeps_the_best_weights_not_the_last(tiny_cache, tmp_path):
    scores = iter([0.5, 0.2])
    best = train(start(tiny_cache, tmp_path, "train.eval_every=1"), validate=lambda model: {"m_vIoU": next(scores)})
    assert best.name == "best.safetensors"
    assert load_checkpoint(best).facts["step"] < load_checkpoint(tmp_path / "last.safetensors").facts["step"]
    assert [x["validation"]["m_vIoU"] for x in lines(tmp_path) if "validation" in x] == [0.5, 0.2]


def test_the_learning_rate_warms_up_and_drops():
    config = load_experiment("tiny", ["train.lr=1", "train.warmup=0.1", "train.lr_drop=2"]).train
    rates = [learning_rate(config, step, 100, 10) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[19] == pytest.approx(1)
    assert rates[20] == pytest.approx(0.1)
    assert rates[99] == pytest.approx(1e-4)


def test_what_warms_up_and_what_falls_in_a_line_is_the_sources():
    """FSM and TubeDETR warm up the text encoder alone: every other group begins at its full rate, and falls in steps."""
    config = load_experiment("paper", ["train.lr_drop=5", "train.epochs=10", "train.warmup=0.1"]).train

    def rates(group):
        return [learning_rate(config, step, 100, 10, group) for step in range(100)]

    for group, full in (("head", 5e-5), ("backbone", 1e-5)):
        assert rates(group) == pytest.approx([full] * 50 + [full / 10] * 50)
    text = rates("text")
    assert text[:10] == pytest.approx([5e-5 * (step + 1) / 10 for step in range(10)])
    assert text[10:] == pytest.approx([5e-5 * (100 - step) / 90 for step in range(10, 100)])


def data(cache, targets=("c3", "c4")):
    return CachedDataset(Cache.open(cache), "train", Sampling(5.0, 40), targets=targets)


def test_the_order_is_a_function_of_seed_and_epoch_and_holds_every_sample_once(tiny_cache):
    dataset = data(tiny_cache)
    first = epoch_order(dataset, 4, 2, seed=1, epoch=0)
    assert sorted(p for b in first for p in b) == list(range(len(dataset)))
    assert first == epoch_order(dataset, 4, 2, seed=1, epoch=0)
    assert first != epoch_order(dataset, 4, 2, seed=1, epoch=1)
    assert first != epoch_order(dataset, 4, 2, seed=2, epoch=0)


def test_batches_do_not_depend_on_where_reading_started(tiny_cache):
    dataset = data(tiny_cache)
    order = epoch_order(dataset, 4, 2, seed=1, epoch=0)
    late = list(training_batches(dataset, order, 1, 0, start=2))
    for a, b in zip(list(training_batches(dataset, order, 1, 0))[2:], late, strict=True):
        assert torch.equal(a.inputs.maps, b.inputs.maps)
        assert torch.equal(a.targets.boxes, b.targets.boxes)


def test_temporal_crop_never_cuts_the_moment(tiny_cache):
    dataset = data(tiny_cache)
    shorter = 0
    for seed in range(40):
        clip = dataset[seed % len(dataset)]
        cropped = dataset.crop(clip, np.random.default_rng(seed).random(3))
        inside = moment_slots(clip.frames, clip.sample.moment)
        kept = moment_slots(cropped.frames, clip.sample.moment)
        assert clip.frames[inside[0]] == cropped.frames[kept[0]]
        assert clip.frames[inside[1]] == cropped.frames[kept[1]]
        shorter += len(cropped.frames) < len(clip.frames)
    assert 5 < shorter < 35


def test_sentences_of_one_video_share_its_features_by_index(tiny_cache):
    dataset = data(tiny_cache)
    clips = [dataset[i] for i in range(len(dataset)) if dataset[i].sample.video == dataset[0].sample.video]
    batch = dataset.collate(clips)
    distinct = {f for c in clips for f in c.frames.tolist()}
    assert len(clips) > 2
    assert len(batch.inputs.maps) == len(distinct)
    for b, clip in enumerate(clips):
        alone = dataset.collate([clip])
        shared = batch.inputs.maps[batch.inputs.frame_index[b, : len(clip.frames)]]
        assert torch.equal(shared, alone.inputs.maps[alone.inputs.frame_index[0]])


def test_a_plain_torch_loader_gives_the_same_batches(tiny_cache):
    dataset = data(tiny_cache)
    order = epoch_order(dataset, 4, 2, seed=1, epoch=0)[:2]
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=order, collate_fn=dataset.collate)
    for ours, theirs in zip(training_batches(dataset, order, 1, 0, crop=False), loader, strict=True):
        assert torch.equal(ours.inputs.maps, theirs.inputs.maps)
        assert [s.sample_id for s in ours.samples] == [s.sample_id for s in theirs.samples]


def test_features_that_a_head_needs_and_the_cache_lacks_are_refused(tiny_cache):
    with pytest.raises(CacheError, match="no maps of level c4"):
        CachedDataset(Cache.open(tiny_cache), "train", Sampling(5.0, 40), level="c4")
    with pytest.raises(CacheError, match="no level 'c9'"):
        data(tiny_cache, targets=["c9"])
    with pytest.raises(CacheError, match="no split 'vla'"):
        CachedDataset(Cache.open(tiny_cache), "vla", Sampling(5.0, 40))
    with pytest.raises(CacheError, match=r"frames at 5\.0 fps"):
        CachedDataset(Cache.open(tiny_cache), "train", Sampling(4.0, 40))
