"""Training steps of the heads at the paper's sizes, ours and plain ones, on samples made up: what step.py measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from facts import LEVELS, TEXT
from plain import PlainTubeDETR
from plain_fsm import PlainFSM
from plain_stcat import PlainSTCAT
from torch import Tensor, nn

from stvg.cache.batches.batch import Inputs, Targets
from stvg.heads.checkpoint import EMA
from stvg.heads.cpu import hold_memory
from stvg.heads.losses import Criterion
from stvg.heads.model import Output
from stvg.heads.model_config import FeatureFacts
from stvg.heads.settings import load_experiment
from stvg.heads.table import build_model

FRAMES, CELLS, TOKENS = 100, (7, 12), 20
FACTS = FeatureFacts(LEVELS, TEXT.width)
MOMENT = (30, 70)
PRESETS = {"TubeDETR": "tubedetr", "FSM": "paper", "STCAT": "stcat"}
SLOTS = {"STCAT": 64}
"""Of heads that are made for clips of other lengths."""

Step = Callable[[], Tensor]


def clips(
    count: int, frames: int = FRAMES, cells: tuple[int, int] = CELLS, sentences: int = 1
) -> tuple[Inputs, Targets]:
    """Samples of one size; every ``sentences`` of them share a video."""
    h, w = cells
    draws = torch.Generator().manual_seed(0)
    videos = count // sentences
    maps = torch.randn(videos * frames, h, w, LEVELS[-1].channels, generator=draws).relu().half()
    index = torch.arange(videos * frames).view(videos, frames).repeat_interleave(sentences, 0)
    first, last = (m * frames // FRAMES for m in MOMENT)
    inside = torch.zeros(count, frames, dtype=torch.bool)
    inside[:, first:last] = True
    centre = 0.3 + 0.4 * torch.rand(count, frames, 2, generator=draws)
    boxes = torch.cat([centre, 0.1 + 0.3 * torch.rand(count, frames, 2, generator=draws)], dim=-1)
    inputs = Inputs(
        maps=maps,
        cell_padding=torch.zeros(len(maps), h, w, dtype=torch.bool),
        frame_index=index,
        frame_padding=torch.zeros(count, frames, dtype=torch.bool),
        tokens=torch.randn(count, TOKENS, FACTS.text_width, generator=draws),
        token_padding=torch.zeros(count, TOKENS, dtype=torch.bool),
    )
    targets = Targets(
        boxes=boxes * inside[..., None],
        in_moment=inside,
        span=torch.tensor([[first, last - 1]] * count),
        size=torch.tensor([[w * 32, h * 32]] * count),
        regions={
            level.name: torch.randn(count * (last - first), 16, level.channels, generator=draws).relu().half()
            for level in LEVELS[:-1]
        },
    )
    return inputs, targets


def one_of(targets: Targets, b: int) -> Targets:
    """The annotation of one sample."""
    return replace(
        targets,
        boxes=targets.boxes[b : b + 1],
        in_moment=targets.in_moment[b : b + 1],
        span=targets.span[b : b + 1],
        size=targets.size[b : b + 1],
        regions={name: found[targets.slots[0] == b] for name, found in targets.regions.items()},
    )


class Trainer:
    """A model with all that a step needs."""

    def __init__(self, model: nn.Module, preset: str, amp: bool, fused: bool) -> None:
        self.model, self.amp = model, amp
        self.criterion = Criterion(load_experiment(preset).loss)
        self.optimizer = torch.optim.AdamW(model.parameters(), 5e-5, weight_decay=1e-4, fused=fused)
        self.ema = EMA(model, 0.9998)  # type: ignore[arg-type]

    def step(self, forward: Callable[[], Output], targets: Targets) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(targets.boxes.device.type, torch.bfloat16, enabled=self.amp):
            output = forward()
        padding = torch.zeros_like(targets.in_moment)
        total = torch.stack(list(self.criterion(output, targets, padding).values())).sum()
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
        self.optimizer.step()
        self.ema.update(self.model)  # type: ignore[arg-type]
        return total.detach()


def head(preset: str, settings: Sequence[str] = ()) -> nn.Module:
    return build_model(load_experiment(preset, settings).model, FACTS)


def ours(
    preset: str,
    inputs: Inputs,
    targets: Targets,
    amp: bool,
    device: str,
    settings: Sequence[str] = (),
    recompute: bool = False,
) -> Step:
    """One step over the whole batch."""
    hold_memory()
    model = head(preset, settings).to(device).train()
    model.recompute(recompute)
    trainer = Trainer(model, preset, amp, fused=True)
    inputs, targets = inputs.to(torch.device(device)), targets.to(torch.device(device))
    return lambda: trainer.step(lambda: model(inputs, targets), targets)


def plain(preset: str, inputs: Inputs, targets: Targets, amp: bool, device: str) -> Step:
    """A step of its own for every sample; the mean of their losses."""
    model = plain_model(preset).to(device).train()
    trainer = Trainer(model, preset, amp, fused=False)
    inputs, targets = inputs.to(torch.device(device)), targets.to(torch.device(device))

    def step() -> Tensor:
        losses = []
        for b in range(len(inputs.tokens)):
            c5, words, alone = inputs.maps[inputs.frame_index[b]].float(), inputs.tokens[b], one_of(targets, b)
            losses.append(trainer.step(lambda: model(c5, words, alone), alone))  # noqa: B023  # called at once
        return torch.stack(losses).mean()

    return step


def plain_model(preset: str) -> nn.Module:
    reference = head(preset)
    c, widths = reference.config, (LEVELS[-1].channels, FACTS.text_width)
    model: nn.Module
    if preset == "stcat":
        model = PlainSTCAT(*widths, c.d, c.heads, c.ffn, c.encoder_layers, c.span_dropout)
    elif preset == "paper":
        model = PlainFSM(LEVELS, FACTS.text_width, c)
    else:
        model = PlainTubeDETR(*widths, c.stride, c.d, c.heads, c.ffn, c.encoder_layers)
    model.load_state_dict(reference.state_dict())
    return model
