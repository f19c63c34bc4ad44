"""Training: exact resume, a guard that names samples, an order that is a function of seed and epoch, clear refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from stvg.cache.dataset import CachedDataset
from stvg.cache.errors import CacheError, CheckpointError, TrainingDiverged
from stvg.cache.index import Cache
from stvg.cache.order import epoch_order, training_batches
from stvg.cache.sampling import Sampling, moment_slots
from stvg.heads.checkpoint import load_checkpoint
from stvg.heads.experiment import load_experiment
from stvg.heads.train import Run, learning_rate, train

CPU = torch.device("cpu")
SETTINGS = ("model.d=32", "model.ffn=48", "model.encoder_layers=1", "model.decoder_layers=2", "model.dropout=0.1")
SETTINGS += ("train.epochs=2", "train.batch_size=8", "train.log_every=1", "train.ema=0.9", "train.save_every=100")


def start(cache, folder, *settings):
    return Run(folder, Cache.open(cache), load_experiment("tiny", [*SETTINGS, *settings]), "train", CPU)


def weights(path):
    return load_checkpoint(path).tensors


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Interrupted(Exception):
    """Stands for whatever ends a process in the middle of a run."""


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume_gives_bitwise_the_weights_of_an_unbroken_run(tiny_cache, tmp_path, accumulate):
    setting = f"train.accumulate={accumulate}"
    train(start(tiny_cache, tmp_path / "whole", setting))

    def stop(line):
        if line.get("step") == 3:
            raise Interrupted

    broken = start(tiny_cache, tmp_path / "broken", setting, "train.save_every=2")
    broken.experiment = replace(broken.experiment, train=replace(broken.experiment.train, save_every=2))
    with pytest.raises(Interrupted):
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


def test_an_interrupt_saves_before_it_stops(tiny_cache, tmp_path):
    def interrupt(line):
        if line["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(start(tiny_cache, tmp_path), report=interrupt)
    again = start(tiny_cache, tmp_path)
    assert again.resume()
    assert again.step == 3


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
    assert lines(tmp_path)[-1].keys() == {"step", "loss", "l1", "giou", "span", "attention", "aux", "lr"}
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


def data(cache, targets="roi"):
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
        assert torch.equal(a.inputs.c5, b.inputs.c5)
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
    assert len(batch.inputs.c5) == len(distinct)
    for b, clip in enumerate(clips):
        alone = dataset.collate([clip])
        shared = batch.inputs.c5[batch.inputs.frame_index[b, : len(clip.frames)]]
        assert torch.equal(shared, alone.inputs.c5[alone.inputs.frame_index[0]])


def test_a_plain_torch_loader_gives_the_same_batches(tiny_cache):
    dataset = data(tiny_cache)
    order = epoch_order(dataset, 4, 2, seed=1, epoch=0)[:2]
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=order, collate_fn=dataset.collate)
    for ours, theirs in zip(training_batches(dataset, order, 1, 0, crop=False), loader, strict=True):
        assert torch.equal(ours.inputs.c5, theirs.inputs.c5)
        assert [s.sample_id for s in ours.samples] == [s.sample_id for s in theirs.samples]


def test_features_that_a_head_needs_and_the_cache_lacks_are_refused(tiny_cache):
    with pytest.raises(CacheError, match="--levels full"):
        data(tiny_cache, targets="full")
    with pytest.raises(CacheError, match="no split 'vla'"):
        CachedDataset(Cache.open(tiny_cache), "vla", Sampling(5.0, 40))
    with pytest.raises(CacheError, match=r"frames at 5\.0 fps"):
        CachedDataset(Cache.open(tiny_cache), "train", Sampling(4.0, 40))
