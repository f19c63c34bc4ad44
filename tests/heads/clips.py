"""Random clips for head tests, padded together or alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stvg.cache.batches.batch import Inputs, Targets
from stvg.heads.fsm.fusion import FusionConfig
from stvg.heads.model_config import FeatureFacts, HeadConfig, ModelConfig, TubeDETRConfig
from stvg.heads.stcat.config import STCATConfig

from ..encoders import levels

FACTS = FeatureFacts(levels((6, 8, 10), (8, 16, 32), "fine middle last"), text_width=12)
SMALL = ModelConfig(d=32, heads=4, ffn=48, encoder_layers=2, decoder_layers=3, max_frames=12, num_queries=3)


OTHERS = {
    "tubedetr": TubeDETRConfig(d=32, heads=4, ffn=48, encoder_layers=2, decoder_layers=3, max_frames=12),
    "stcat": STCATConfig(d=32, heads=4, ffn=48, encoder_layers=2, decoder_layers=3, max_frames=12),
}


def small(**changes: object) -> HeadConfig:
    """A small FSM head, or one of another ``head``, with some settings changed."""
    from dataclasses import replace

    if changes.get("head") in OTHERS:
        return replace(OTHERS[changes["head"]], **changes)
    if "fusion" in changes:
        changes["fusion"] = FusionConfig(**changes["fusion"])
    return replace(SMALL, **changes)


@dataclass
class RandomClip:
    """One sample: T slots of h x w cells, M tokens, a moment [first, last] of slots."""

    T: int
    h: int
    w: int
    M: int
    first: int
    last: int
    seed: int

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        g = torch.Generator().manual_seed(self.seed)
        maps = torch.randn(self.T, self.h, self.w, FACTS.levels[-1].channels, generator=g)
        tokens = torch.randn(self.M, FACTS.text_width, generator=g)
        centre = 0.3 + 0.4 * torch.rand(self.T, 2, generator=g)
        boxes = torch.cat([centre, 0.1 + 0.3 * torch.rand(self.T, 2, generator=g)], dim=1)
        regions = torch.randn(self.last - self.first + 1, 16, sum(k.channels for k in FACTS.levels[:2]), generator=g)
        return maps, tokens, boxes, regions

    def maps(self, number: int) -> torch.Tensor:
        g = torch.Generator().manual_seed(self.seed + 100 * number)
        level = FACTS.levels[number]
        size = (-(-self.h * 32 // level.stride), -(-self.w * 32 // level.stride))
        return torch.randn(self.last - self.first + 1, *size, level.channels, generator=g)


def pad(tensors: list[torch.Tensor], value: float | bool = 0) -> torch.Tensor:
    """Concatenate maps (n, h, w, C) of different sizes, padded at the bottom and right."""
    h, w = max(t.shape[1] for t in tensors), max(t.shape[2] for t in tensors)
    out = torch.full((sum(len(t) for t in tensors), h, w, *tensors[0].shape[3:]), value, dtype=tensors[0].dtype)
    at = 0
    for t in tensors:
        out[at : at + len(t), : t.shape[1], : t.shape[2]] = t
        at += len(t)
    return out


def batch(clips: list[RandomClip], whole: bool = False) -> tuple[Inputs, Targets]:
    """Inputs and targets of some clips, padded to the largest; ``whole``: further levels as maps instead of regions."""
    B, T, M = len(clips), max(c.T for c in clips), max(c.M for c in clips)
    parts = [c.tensors() for c in clips]
    frame_padding = torch.ones(B, T, dtype=torch.bool)
    frame_index = torch.zeros(B, T, dtype=torch.int64)
    tokens, token_padding = torch.zeros(B, M, FACTS.text_width), torch.ones(B, M, dtype=torch.bool)
    boxes, in_moment = torch.zeros(B, T, 4), torch.zeros(B, T, dtype=torch.bool)
    start = 0
    for b, (clip, (_, words, box, _)) in enumerate(zip(clips, parts, strict=True)):
        frame_padding[b, : clip.T] = False
        frame_index[b] = start
        frame_index[b, : clip.T] = torch.arange(clip.T) + start
        start += clip.T
        tokens[b, : clip.M], token_padding[b, : clip.M] = words, False
        in_moment[b, clip.first : clip.last + 1] = True
        boxes[b, : clip.T] = box
    padding = pad([torch.zeros(c.T, c.h, c.w, dtype=torch.bool) for c in clips], value=True)
    inputs = Inputs(pad([p[0] for p in parts]), padding, frame_index, frame_padding, tokens, token_padding)
    fine, middle, _ = (level.name for level in FACTS.levels)
    if whole:
        further = {"maps": {fine: pad([c.maps(0) for c in clips]), middle: pad([c.maps(1) for c in clips])}}
    else:
        regions = torch.cat([p[3] for p in parts]).split([k.channels for k in FACTS.levels[:2]], dim=-1)
        further = {"regions": dict(zip((fine, middle), regions, strict=True))}
    targets = Targets(
        boxes * in_moment[..., None],
        in_moment,
        torch.tensor([(c.first, c.last) for c in clips]),
        torch.tensor([(c.w * 32, c.h * 32) for c in clips]),
        **further,
    )
    return inputs, targets


CLIPS = [
    RandomClip(T=7, h=3, w=5, M=4, first=2, last=5, seed=1),
    RandomClip(T=3, h=4, w=2, M=9, first=0, last=0, seed=2),
    RandomClip(T=1, h=2, w=3, M=2, first=0, last=0, seed=3),
]
