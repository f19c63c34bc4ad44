"""Training more than the head: frozen encoders change nothing, live ones get the gradients the whole network would give."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from stvg.cache.index import Cache
from stvg.errors import CacheError, CheckpointError, UsageError
from stvg.evaluate.evaluation import load_head, open_split, tubes_of
from stvg.extract.encoders.backbone import build_backbone
from stvg.extract.encoders.roberta import wrap as wrap_roberta
from stvg.extract.encoders.tiny_text import TinyText
from stvg.extract.encoders.tiny_text import wrap as wrap_tiny
from stvg.extract.encoders.tokenizer import load_tokenizer
from stvg.heads.checkpoint import load_checkpoint
from stvg.heads.cpu.memory import of_glibc, return_memory
from stvg.heads.settings import load_experiment
from stvg.heads.training import batch_size, live_encoders, trained_encoders
from stvg.heads.training.live_encoders import LiveEncoders, Sources
from stvg.heads.training.loop import train
from stvg.heads.training.state import Run

from ..conftest import extract_synthetic

CPU = torch.device("cpu")
SETTINGS = ("model.d=32", "model.ffn=48", "model.encoder_layers=1", "model.decoder_layers=2", "model.num_queries=2")
SETTINGS += ("train.epochs=1", "train.batch_size=6", "train.log_every=1", "train.temporal_crop=false")
FROZEN = ("train.lr_backbone=0", "train.lr_text=0", "train.views=false")
MODES = ["text", "last-stage", "end-to-end"]


@pytest.fixture(scope="module")
def exact_caches(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Caches of the synthetic dataset in float32, one per level of detail. Read only."""
    folder = tmp_path_factory.mktemp("exact")
    return {k: extract_synthetic(synthetic, folder / k, levels=k, dtype="float32") for k in ("roi", "full", "none")}


def start(cache: Path, folder: Path, data: Path, mode: str, *settings: str) -> Run:
    experiment = load_experiment("tiny", [*SETTINGS, f"train.mode={mode}", *settings])
    return Run(folder, Cache.open(cache), experiment, "train", CPU, {"videos": data / "vidor/video"})


def losses(run: Run, positions: list[int]) -> dict[str, torch.Tensor]:
    batch = run.dataset.collate([run.dataset[p] for p in positions])
    return run.criterion(run.model.eval()(batch), batch.targets, batch.inputs.frame_padding)


@pytest.mark.parametrize(("mode", "levels"), [("end-to-end", "full"), ("last-stage", "full"), ("text", "roi")])
def test_frozen_live_encoders_give_the_loss_of_the_cache(exact_caches, synthetic, tmp_path, mode, levels):
    cache = exact_caches[levels]
    cached = losses(start(cache, tmp_path / "a", synthetic, "cached", *FROZEN), [0, 9, 14, 20])
    live = losses(start(cache, tmp_path / "b", synthetic, mode, *FROZEN), [0, 9, 14, 20])
    assert cached.keys() == live.keys()
    for name, value in cached.items():
        torch.testing.assert_close(live[name], value, rtol=1e-5, atol=1e-6, msg=name)
    assert cached["mrcl"] > 0


def test_end_to_end_reads_whole_maps_of_all_levels_whatever_the_cache_keeps(exact_caches, synthetic, tmp_path):
    """Group norm over a region is another model than over its map: only the maps are the paper's."""
    positions = [0, 9, 14, 20]
    found = [
        losses(start(exact_caches[k], tmp_path / k, synthetic, "end-to-end", *FROZEN), positions)
        for k in ("roi", "full")
    ]
    assert {k: v.item() for k, v in found[0].items()} == {k: v.item() for k, v in found[1].items()}


def test_a_backbone_that_recomputes_has_the_same_gradients_bit_for_bit_and_keeps_no_activations(
    exact_caches, synthetic, tmp_path, monkeypatch
):
    monkeypatch.setattr(live_encoders, "AT_ONCE", 7)
    found, kept = [], []
    for name, recompute in (("kept", "false"), ("again", "true")):
        settings = ("train.views=false", f"train.recompute={recompute}")
        run = start(exact_caches["full"], tmp_path / name, synthetic, "end-to-end", *settings)
        seen = {}
        with saved_tensors_hooks(lambda t: seen.setdefault(t.data_ptr(), t), lambda t: t):  # noqa: B023
            batch = run.encoders.train()(run.dataset.collate([run.dataset[p] for p in (0, 9, 14, 20)]))
        kept.append(sum(t.numel() for t in seen.values()))
        found.append(gradients(run, [0, 9, 14, 20]))
        assert batch.inputs.maps.requires_grad
    assert found[0].keys() == found[1].keys() != set()
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])
    assert kept[1] < kept[0]


def test_a_batch_end_to_end_is_divided_into_as_few_as_fit_and_a_run_goes_on_as_it_began(
    exact_caches, synthetic, tmp_path, monkeypatch
):
    """Clips that cost 10 beside 5 that any number costs, on devices of other sizes, with optimiser states."""
    monkeypatch.setattr(batch_size, "needed_bytes", lambda run, count: 5 + 10 * count)
    monkeypatch.setattr(batch_size, "SHARE", 1.0)
    run = start(exact_caches["roi"], tmp_path, synthetic, "end-to-end", "train.accumulate=1")
    states = 2 * sum(p.nbytes for p in run.model.parameters() if p.requires_grad)
    for memory, expected in ((1e12, 6), (65, 6), (64, 3), (35, 3), (34, 2), (0, 1)):
        monkeypatch.setattr(batch_size, "memory_of", lambda device, n=memory: int(n) + states)
        assert batch_size.fitting_share(run) == expected
    monkeypatch.setattr(batch_size, "memory_of", lambda device: 35 + states)
    chosen = start(exact_caches["roi"], tmp_path, synthetic, "end-to-end")
    assert (chosen.experiment.train.batch_size, chosen.experiment.train.accumulate) == (3, 2)
    assert chosen.total_steps == run.total_steps
    chosen.save()
    monkeypatch.setattr(batch_size, "memory_of", lambda device: 0)
    again = start(exact_caches["roi"], tmp_path, synthetic, "end-to-end")
    assert again.experiment == chosen.experiment
    assert again.resume()
    cached = start(exact_caches["roi"], tmp_path / "cached", synthetic, "cached")
    assert (cached.experiment.train.batch_size, cached.experiment.train.accumulate) == (6, 1)


def test_where_two_clips_do_not_fit_a_batch_is_divided_into_single_ones(exact_caches, synthetic, tmp_path, monkeypatch):
    def needed(run: Run, count: int) -> int:
        if count > 1:
            raise torch.OutOfMemoryError("out of memory")
        return 10

    monkeypatch.setattr(batch_size, "needed_bytes", needed)
    run = start(exact_caches["roi"], tmp_path, synthetic, "end-to-end")
    assert (run.experiment.train.batch_size, run.experiment.train.accumulate) == (1, 6)


def test_what_clips_need_is_measured_on_two_videos_and_leaves_the_run_as_it_was(exact_caches, synthetic, tmp_path):
    run = start(exact_caches["roi"], tmp_path, synthetic, "end-to-end", "train.accumulate=1")
    videos = [run.dataset[i].sample.video.video_id for i in batch_size.longest(run.dataset)]
    assert len(set(videos)) == 2
    before, state = run.digest(), torch.get_rng_state()
    one, two = (batch_size.needed_bytes(run, count) for count in (1, 2))
    assert 1.5 * one < two < 2.5 * one
    assert run.digest() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_end_to_end_needs_nothing_of_a_cache_but_its_recipe_and_annotation_set(exact_caches, synthetic, tmp_path):
    emptied = shutil.copytree(exact_caches["roi"], tmp_path / "cache", ignore=shutil.ignore_patterns("videos", "text"))
    positions = [0, 9, 14, 20]
    theirs, *ours = (
        losses(start(cache, tmp_path / "runs" / cache.name, synthetic, "end-to-end", *FROZEN), positions)
        for cache in (exact_caches["roi"], emptied, exact_caches["none"])
    )
    for of_one in ours:
        assert {k: v.item() for k, v in of_one.items()} == {k: v.item() for k, v in theirs.items()}


def test_a_whole_run_with_frozen_encoders_has_the_losses_of_a_cached_one(exact_caches, synthetic, tmp_path):
    logged = {}
    for mode in ("cached", "end-to-end"):
        train(start(exact_caches["full"], tmp_path / mode, synthetic, mode, *FROZEN))
        lines = (tmp_path / mode / "metrics.jsonl").read_text().splitlines()
        logged[mode] = [json.loads(line)["loss"] for line in lines]
    assert len(logged["cached"]) > 4
    assert logged["end-to-end"] == pytest.approx(logged["cached"], rel=1e-4)


def gradients(run: Run, positions: list[int]) -> dict[str, torch.Tensor]:
    run.encoders.set_trained(backbone=True, text=False)
    sum(losses(run, positions).values()).backward()
    return {n: p.grad for n, p in run.encoders.backbone.named_parameters() if p.grad is not None}


def test_the_last_stage_on_cached_c4_gets_the_gradient_of_the_whole_backbone(exact_caches, synthetic, tmp_path):
    cache = exact_caches["full"]
    whole = gradients(start(cache, tmp_path / "a", synthetic, "end-to-end", "train.views=false"), [0, 9, 14, 20])
    alone = gradients(start(cache, tmp_path / "b", synthetic, "last-stage"), [0, 9, 14, 20])
    assert whole["encoder.mix2"].abs().sum() > 0
    torch.testing.assert_close(alone["encoder.mix2"], whole["encoder.mix2"], rtol=1e-4, atol=1e-7)
    assert alone.get("encoder.mix1") is None or not alone["encoder.mix1"].any()


def test_resnet101_from_cached_c4_gives_layer4_the_gradient_of_the_whole_network(tmp_path):
    backbone = build_backbone("resnet101", "random")
    g = torch.Generator().manual_seed(0)
    pixels, weights = torch.randn(2, 3, 64, 85, generator=g), torch.randn(2, 2048, 2, 3, generator=g)

    def gradient(of, run):
        of.encoder.body.layer4.requires_grad_(True)
        (run() * weights).sum().backward()
        return {n: p.grad for n, p in of.encoder.body.layer4.named_parameters()}

    c4 = backbone(pixels)["c4"]
    late = build_backbone("resnet101", "random").drop_early_stages()
    whole = gradient(backbone, lambda: backbone(pixels)["c5"])
    alone = gradient(late, lambda: late.last_stage(c4))
    assert sum(p.numel() for p in late.parameters()) == 14_942_208
    for name, value in whole.items():
        torch.testing.assert_close(alone[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_resnet101_trains_stages_2_to_4_and_leaves_the_first_222_400_parameters(tmp_path):
    backbone = build_backbone("resnet101", "random")
    encoders = LiveEncoders("end-to-end", backbone, None, "c5", ())
    encoders.set_trained(backbone=True, text=False)
    frozen = sum(p.numel() for p in backbone.parameters() if not p.requires_grad)
    assert frozen == 222_400
    assert sum(p.numel() for p in encoders.groups()["backbone"]) == 42_394_816 - frozen


@pytest.mark.parametrize("mode", MODES)
def test_what_a_mode_trains_moves_and_nothing_else_does(exact_caches, synthetic, tmp_path, mode):
    run = start(exact_caches["full"], tmp_path, synthetic, mode, "train.lr_backbone=0.001", "train.lr_text=0.001")
    before = {k: v.clone() for k, v in run.encoders.state_dict().items()}
    train(run)
    moved = {k for k, v in run.encoders.state_dict().items() if not torch.equal(v, before[k])}
    text, last, early = (
        {"text.encoder.table"},
        {"backbone.encoder.mix2"},
        {"backbone.encoder.mix0", "backbone.encoder.mix1"},
    )
    assert moved == {"text": text, "last-stage": last, "end-to-end": text | last | early}[mode]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_resumes_bitwise(exact_caches, synthetic, tmp_path, mode):
    settings = ("train.lr_backbone=0.001", "train.lr_text=0.001", "train.temporal_crop=true", "train.save_every=2")
    whole = start(exact_caches["full"], tmp_path / "whole", synthetic, mode, *settings)
    train(whole)

    def stop(line):
        if line.get("step") == 3:
            raise RuntimeError("the power went out")

    with pytest.raises(RuntimeError, match="power"):
        train(start(exact_caches["full"], tmp_path / "broken", synthetic, mode, *settings), report=stop)
    again = start(exact_caches["full"], tmp_path / "broken", synthetic, mode, *settings)
    assert again.resume()
    assert again.step == 2
    train(again)
    a, b = (load_checkpoint(tmp_path / k / "last.safetensors").tensors for k in ("whole", "broken"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_brings_its_trained_encoders_to_the_evaluation(exact_caches, synthetic, tmp_path, stvg, mode):
    run = start(exact_caches["full"], tmp_path, synthetic, mode, "train.lr_backbone=0.01", "train.lr_text=0.01")
    checkpoint = train(run)
    videos = synthetic / "vidor/video"
    head = load_head(checkpoint, CPU)
    data = open_split(head, Cache.open(exact_caches["full"]), "test", videos)
    ours = tubes_of(head.model, data, 4, CPU)
    theirs = tubes_of(run.ema.model, run.open_split("test"), 4, CPU)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[k].boxes, theirs[k].boxes) for k in ours)
    if mode == "end-to-end":
        with pytest.raises(UsageError, match="--videos"):
            open_split(head, Cache.open(exact_caches["full"]), "test")
        words = ["--checkpoint", checkpoint, "--cache", exact_caches["full"], "--text-encoder", "hf:nosuch"]
        ran = stvg("evaluate", *words)
        assert (ran.code, "reads pixels" in ran.err, "nosuch" in ran.err) == (1, True, False), ran.err


def test_encoders_of_other_weights_than_the_cache_was_made_with_are_refused(exact_caches, synthetic, tmp_path):
    experiment = load_experiment("tiny", [*SETTINGS, "train.mode=text"])
    with pytest.raises(CacheError, match="not the tiny weights the cache was made with"):
        Run(tmp_path, Cache.open(exact_caches["roi"]), experiment, "train", CPU, {"weights_seed": 5})


def test_the_last_stage_needs_cached_c4(exact_caches, synthetic, tmp_path):
    with pytest.raises(CacheError, match="--levels full"):
        start(exact_caches["roi"], tmp_path, synthetic, "last-stage")


def test_words_outside_the_vocabulary_keep_the_vector_they_were_drawn_with():
    live, frozen = wrap_tiny(TinyText(3, ["red", "dog"])), wrap_tiny(TinyText(3))
    with torch.no_grad():
        live.encoder.table += 1
    (ours,), (theirs,) = live.encode(["a red cat"]), frozen.encode(["a red cat"])
    assert (np.abs(ours - theirs).max(1) > 0.5).tolist() == [False, False, True, False, False]


def test_roberta_trains_on_cached_vision_and_its_pooler_stays(shared):
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(vocab_size=50265, hidden_size=768, num_hidden_layers=1, num_attention_heads=12, intermediate_size=64, max_position_embeddings=514)  # fmt: skip  # noqa: E501
    text = wrap_roberta(RobertaModel(config), load_tokenizer(str(shared / "real/roberta-base-tokenizer"), 50265))
    encoders = LiveEncoders("text", None, text, "c5", ())
    encoders.set_trained(backbone=False, text=True)
    features, padding = encoders.train().text(["the man in red", "a dog runs after the white ball"])
    features.masked_fill(padding[..., None], 0).square().sum().backward()
    trained = encoders.groups()["text"]
    assert all(p.grad is not None for p in trained)
    assert {n for n, p in text.named_parameters() if not p.requires_grad} == {
        "encoder.module.pooler.dense.weight",
        "encoder.module.pooler.dense.bias",
    }


def test_a_text_encoder_that_trained_is_used_with_its_own_tokenizer_only(monkeypatch):
    facts = {
        "mode": "text",
        "backbone": None,
        "text": "roberta-base",
        "level": "c5",
        "targets": [],
    }
    found = torch.nn.Module()
    found.tokenizer_sha256 = "b" * 64
    monkeypatch.setattr(trained_encoders, "build_text_encoder", lambda *_: found)
    folder = Sources(tokenizer="folder")
    assert trained_encoders.encoders_of({**facts, "tokenizer_sha256": "b" * 64}, folder).text is found
    with pytest.raises(CheckpointError, match="not the tokenizer"):
        trained_encoders.encoders_of({**facts, "tokenizer_sha256": "a" * 64}, folder)


@pytest.mark.skipif(of_glibc("malloc_trim") is None, reason="the C library here cannot return freed memory")
def test_freed_memory_between_kept_blocks_is_returned_to_the_system():
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    blocks = [np.ones(100_000, np.uint8) for _ in range(2_000)]  # 100 kB each: too small to be mapped one by one
    kept = blocks[::200]
    del blocks
    before = resident()
    return_memory()
    assert before - resident() > 100
    assert all(block.all() for block in kept)
