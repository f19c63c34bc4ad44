"""The whole path on real videos with real annotations and the real tokenizer, through the commands."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling
from stvg.extract.encoders.text import build_text_encoder

TINY = ["--backbone", "tiny", "--resolution", "96", "--device", "cpu"]


@pytest.mark.parametrize(
    ("dataset", "folder", "split", "more", "videos"),
    [
        ("hcstvg-v1", "hcstvg", "train", ["--fps", "3"], 4),
        ("hcstvg-v2", "hcstvg", "val", ["--fps", "3"], 3),
        ("vidstg", "vidstg_tracks", "train", [], 2),
        ("vidstg", "vidstg_vidor", "val", [], 2),
    ],
)
def test_real_videos_go_from_annotation_to_scores(stvg, shared, tmp_path, dataset, folder, split, more, videos):
    data, cache, run, scores = shared / "real" / folder, tmp_path / "cache", tmp_path / "run", tmp_path / "scores.json"
    words = ["--dataset", dataset, "--annotations", data, "--split", split, "--out", cache, *TINY, *more]
    ran = stvg("extract", *words)
    assert ran.code == 0, ran.err
    assert f"{videos} videos done" in ran.out
    small = ["--set", "train.epochs=1", "--set", "train.batch_size=4", "--set", "model.max_frames=20"]
    words = ["--cache", cache, "--out", run, "--preset", "tiny", "--split", split, "--val-split", "none", *small]
    ran = stvg("train-head", *words, "--device", "cpu")
    assert ran.code == 0, ran.err
    words = ["--checkpoint", run / "last.safetensors", "--cache", cache, "--split", split, "--json", scores]
    ran = stvg("evaluate", *words, "--device", "cpu")
    assert ran.code == 0, ran.err
    result = json.loads(scores.read_text())
    assert result["scored"] == len(Cache.open(cache).samples)
    assert result["missing"] == 0


def test_a_record_whose_rate_is_below_the_sampled_one_is_refused_by_name(stvg, shared, tmp_path):
    words = ["--dataset", "hcstvg-v1", "--annotations", shared / "real/hcstvg", "--split", "train", *TINY]
    ran = stvg("extract", *words, "--out", tmp_path / "cache")
    assert ran.code == 1
    assert "3_PETS09S2L1.mp4" in ran.err
    assert not (tmp_path / "cache").exists()
    ran = stvg("extract", *words, "--out", tmp_path / "cache", "--on-bad-record", "skip")
    assert ran.code == 0
    assert "3 videos done" in ran.out
    assert "3_PETS09S2L1.mp4" in ran.err


def test_targets_lie_on_the_person_not_beside_it(shared):
    """The annotated tube of a real clip, decoded frame by frame: dark clothes on a bright road, boxes on the dark."""
    from stvg.extract.datasets.readers import read_annotations
    from stvg.extract.video.decode import read_frames

    samples = read_annotations("hcstvg-v1", shared / "real/hcstvg", "train", sampling=Sampling(fps=3.0)).samples
    sample = next(s for s in samples if s.sample_id == "1_PETS09S2L1.mp4")
    frames = np.arange(*sample.moment)
    path = shared / "real/hcstvg/videos" / sample.video.path
    pixels = np.concatenate(list(read_frames(path, frames, width=480, height=360))).mean(-1)
    darker = []
    for shift in (-40, 0, 40):
        boxes = (sample.boxes_at(frames) + np.array([shift, 0, shift, 0])).astype(int)
        darker.append(
            np.mean([p[y1:y2, max(x1, 0) : x2].mean() for p, (x1, y1, x2, y2) in zip(pixels, boxes, strict=True)])
        )
    assert darker[1] < min(darker[0], darker[2])


def test_the_real_vocabulary_feeds_a_full_sized_roberta(shared):
    encoder = build_text_encoder("roberta-base", "random", str(shared / "real/roberta-base-tokenizer"))
    (hidden,) = encoder.encode(["a child wearing a red hat holds a bat."])
    assert hidden.shape[1] == 768
    assert np.isfinite(hidden).all()
    assert sum(p.numel() for p in encoder.parameters()) == 124_645_632
    assert torch.is_grad_enabled()
