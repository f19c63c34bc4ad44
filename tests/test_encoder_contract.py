"""One road for every encoder: extracted, trained on, evaluated, and asked about a video, each as its users would."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.video.swin_transformer import SwinTransformer3d

from stvg.cache.index import Cache, video_key
from stvg.cache.sampling import Sampling, neighbours
from stvg.cache.upkeep.verify import verify
from stvg.evaluate.evaluation import load_head, open_split, tubes_of
from stvg.evaluate.grounding.predictor import Predictor
from stvg.evaluate.grounding.request import Question
from stvg.extract.encoders import video_swin
from stvg.extract.encoders.backbone import build_backbone
from stvg.extract.job import ExtractJob, run_job
from stvg.extract.transforms import apply_view
from stvg.extract.video.decode import probe, read_frames
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import train
from stvg.heads.training.state import Run

from .encoders import WORDS
from .extract.folders import hf_folder, text_folder
from .extract.test_decode import write_video

CPU = torch.device("cpu")
SENTENCE = "a bad egg"
MINE = (
    '''
import torch
from torch import nn


class Mine:
    """No module itself; two levels, patches of 8."""

    levels = [("fine", 6, 4), ("coarse", 8, 8)]
    mean = std = (0.5, 0.5, 0.5)
    multiple = 8

    def __init__(self, weights, device):
        self.fine, self.coarse = nn.Conv2d(3, 6, 4, 4).to(device), nn.Conv2d(6, 8, 2, 2).to(device)

    def __call__(self, pixels):
        fine = self.fine(pixels)
        return {"fine": fine, "coarse": self.coarse(fine)}


class Windowed(nn.Module):
    """Its last level is the mean of three frames, so that it shows which frames it was given."""

    levels = [("mean", 3, 8)]
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    multiple, window = 8, 3

    def __init__(self, weights, device):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, device=device))

    def forward(self, pixels):
        return {"mean": torch.nn.functional.avg_pool2d(pixels.mean(1) * self.scale, 8)}
'''
    + WORDS
)

ROADS = {
    "ResNet": ("timm:test_resnet", "tiny"),
    "EfficientNet": ("timm:test_efficientnet", "hf bert"),
    "ConvNeXt": ("timm:test_convnext3", "hf clip"),
    "a ViT with registers": ("timm:test_vit4", "hf t5"),
    "AutoBackbone's DINOv2 with registers": ("hf dinov2", "tiny"),
    "Swin": ("hf swin", "tiny"),
    "Video Swin": ("torchvision:swin3d_t", "tiny"),
    "a user's classes": ("mine.py:Mine", "mine.py:Words"),
    "a user's class with a window": ("mine.py:Windowed", "tiny"),
    "two side by side": ("timm:test_resnet,mine.py:Windowed", "tiny"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One video of 12 frames, a sample to train on and one to test on."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "videos").mkdir()
    facts = probe(write_video(folder / "videos/v.mp4", 24))
    known = {
        "file": "v.mp4",
        "width": facts.width,
        "height": facts.height,
        "fps": facts.fps,
        "frame_count": facts.frames,
    }
    sample = {"id": 1, "video": "v", "sentence": SENTENCE, "segment": [4, 22], "moment": [5, 18], "interpolate": True}
    sample["boxes"] = {"5": [10, 10, 60, 60], "17": [20, 10, 70, 60]}
    for split in ("train", "test"):
        (folder / f"{split}.json").write_text(json.dumps({"videos": {"v": known}, "samples": [sample]}))
    return folder


def named(name: str, folder: Path) -> str:
    """The name of an encoder, whose folder or file is made; or of several."""
    if "," in name:
        return ",".join(named(one, folder) for one in name.split(","))
    if name.startswith("hf "):
        kind = name[3:]
        made = hf_folder if kind in ("dinov2", "swin") else text_folder
        return made(folder / kind, kind)
    if name.startswith("mine.py"):
        (folder / "mine.py").write_text(MINE)
        return f"{folder}/{name}"
    return name


def encoders(backbone: str, text: str) -> dict[str, str | None]:
    """Names and weights: those of a folder, else random ones."""
    weights = {"backbone_weights": backbone, "text_weights": text}
    own = {k: None if name.startswith(("hf:", "tiny")) else "random" for k, name in weights.items()}
    return {"backbone": backbone, "text_encoder": text, **own}


def extracted(data: Path, out: Path, backbone: str, text: str, **changes: object) -> Cache:
    chosen = {**encoders(backbone, text), "resolution": 64, "batch_frames": 8, **changes}
    job = ExtractJob(dataset="json", annotations=data, out=out, sampling=Sampling(5.0, 8), device=CPU, **chosen)
    report, _ = run_job(job)
    assert (report.videos, report.skipped) == (1, {})
    return Cache.open(out)


@pytest.mark.parametrize("road", ROADS)
def test_an_encoder_is_extracted_trained_on_evaluated_and_asked(road, data, tmp_path, monkeypatch):
    small = {"embed_dim": 12, "depths": [1] * 4, "num_heads": [1, 2, 3, 6], "window_size": [8, 7, 7]}
    monkeypatch.setattr(video_swin, "create", lambda _: SwinTransformer3d([2, 4, 4], **small))
    backbone, text = (named(name, tmp_path) for name in ROADS[road])
    cache = extracted(data, tmp_path / "cache", backbone, text)
    assert not verify(tmp_path / "cache").problems
    names = (cache.recipe.visual.name, cache.recipe.text.name)
    assert not any("/" in name for name in names), names
    settings = ["train.epochs=1", "train.batch_size=1", "model.ffn=16", "model.max_frames=8"]
    checkpoint = train(Run(tmp_path / "run", cache, load_experiment("tiny", settings), "train", CPU))
    head = load_head(checkpoint, CPU)
    expected = tubes_of(head.model, open_split(head, cache, "test"), 1, CPU)[1]
    assert np.isfinite(expected.boxes).all()
    asked = {**encoders(backbone, text), "tokenizer": None, "weights_seed": 0}
    grounding = Predictor(head, asked, tmp_path / "asked", CPU).ground(Question(data / "videos/v.mp4", (SENTENCE,)))
    tube = grounding.answers[0].tube
    assert np.isfinite(tube.boxes).all()
    assert tube.boxes.shape[1] == 4


def test_a_window_holds_the_videos_own_grid_frames_whatever_is_annotated(data, tmp_path):
    """Frame 4 begins the segment; before it the encoder sees frame 0, which nothing annotates."""
    cache = extracted(data, tmp_path / "cache", named("mine.py:Windowed", tmp_path), "tiny", dtype="float32")
    unit = cache.unit("v")
    frames = np.asarray(unit.frames)
    assert frames[0] == 4
    around = neighbours(frames, 24, 5 / 25, 3)
    assert around[0].tolist() == [0, 4, 5]
    view, wanted = unit.views[0], np.unique(around)
    size = {"width": view.source_width, "height": view.source_height}
    (pixels,) = read_frames(data / "videos/v.mp4", wanted, **size, block=99)
    shown = apply_view(pixels, view, (0.0,) * 3, (1.0,) * 3)[np.searchsorted(wanted, around)]
    with torch.inference_mode():
        expected = build_backbone(named("mine.py:Windowed", tmp_path), "random")(shown)["mean"]
    stored = torch.from_numpy(np.array(cache.store.read(video_key("v"), "mean", slice(0, len(frames)))))
    torch.testing.assert_close(stored, expected.permute(0, 2, 3, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", ["mine.py:Windowed", "mine.py:Mine"])
def test_a_users_class_trains_end_to_end_and_equals_its_cache_while_frozen(backbone, data, tmp_path):
    name = named(backbone, tmp_path)
    cache = extracted(data, tmp_path / "cache", name, "tiny", dtype="float32", levels="full")
    settings = ["train.epochs=1", "train.batch_size=1", "model.ffn=16", "model.max_frames=8"]
    sources = {"backbone": name, "backbone_weights": "random", "videos": data / "videos"}
    losses = {}
    for mode in ("cached", "end-to-end"):
        frozen = ["train.lr_backbone=0", "train.lr_text=0", "train.views=false", f"train.mode={mode}"]
        run = Run(tmp_path / mode, cache, load_experiment("tiny", [*settings, *frozen]), "train", CPU, sources)
        train(run)
        losses[mode] = json.loads((tmp_path / mode / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert losses["end-to-end"] == pytest.approx(losses["cached"], rel=1e-4)
    rate = ["train.lr_backbone=0.01", "train.mode=end-to-end"]
    run = Run(tmp_path / "live", cache, load_experiment("tiny", [*settings, *rate]), "train", CPU, sources)
    before = {k: v.clone() for k, v in run.encoders.state_dict().items() if k.startswith("backbone")}
    train(run)
    assert any(not torch.equal(v, before[k]) for k, v in run.encoders.state_dict().items() if k in before)
