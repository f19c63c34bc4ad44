"""Training encoders together with the head: the text encoder, the last stage of the visual encoder, or both from
pixels.

An encoder that trains runs inside the step. Its output replaces that of the cache: token features, maps of the last
level, or all levels. A frozen encoder gives the same values as the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...cache.batches.batch import Batch, Inputs, LiveFrames, Targets
from ...cache.index import Cache
from ...errors import CacheError, UsageError
from ...extract.encoders.backbone import Backbone, build_backbone
from ...extract.encoders.several import Several
from ...extract.encoders.text import TextEncoder, build_text_encoder
from ...requested import EncoderPlaces

AT_ONCE = 32
"""Frames per pass through the backbone, as in extraction. More would need more memory without being faster."""


@dataclass(frozen=True)
class Sources(EncoderPlaces):
    """The sources of encoders and pixels; see `stvg train-head --help`."""

    videos: Path | None = None


class LiveEncoders(nn.Module):
    """The encoders of one training mode. A frozen one stays in evaluation mode, without gradients."""

    recompute = False
    """Gradient checkpointing: store only the frames, and run the backbone on them again in the backward pass. Same
    results bit for bit, less memory."""

    def __init__(
        self,
        mode: str,
        backbone: Backbone | None,
        text: TextEncoder | None,
        level: str,
        targets: Sequence[str],
        words: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        """``level``: the memory level. ``targets``: further levels whose maps are computed for the second stream.
        ``words``: the words whose vectors a text encoder trains, where it has such. ``seed``: that of the random
        vectors of all other words."""
        super().__init__()
        self.words, self.seed = list(words), seed
        self.mode, self.level, self.targets = mode, level, tuple(targets)
        self.backbone, self.text = backbone, text
        self.trains = {"backbone": backbone is not None, "text": text is not None}

    def set_trained(self, backbone: bool, text: bool) -> None:
        """Enable or disable the gradients of each encoder."""
        self.trains = {"backbone": backbone and self.backbone is not None, "text": text and self.text is not None}
        self.requires_grad_(False)
        for parameters in self.groups().values():
            for parameter in parameters:
                parameter.requires_grad_(True)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The trained parameters by encoder."""
        found: dict[str, list[nn.Parameter]] = {}
        if self.trains["backbone"]:
            assert self.backbone is not None
            found["backbone"] = self.backbone.trained()
        if self.trains["text"]:
            assert self.text is not None
            found["text"] = self.text.trained()
        return found

    def facts(self) -> dict[str, Any]:
        """The facts in a checkpoint from which `trained_encoders` rebuilds these encoders."""
        return {
            "mode": self.mode,
            "backbone": self.backbone and self.backbone.name,
            "text": self.text and self.text.name,
            "level": self.level,
            "targets": self.targets,
            "classes": {k: getattr(self, k).class_sha256 for k in self.trains if getattr(self, k) is not None},
            "tokenizer_sha256": getattr(self.text, "tokenizer_sha256", None),
            "words": self.words,
            "seed": self.seed,
        }

    def train(self, mode: bool = True) -> LiveEncoders:
        super().train(mode)
        for name, trains in self.trains.items():
            if not trains and getattr(self, name) is not None:
                getattr(self, name).eval()
        return self

    def forward(self, batch: Batch) -> Batch:
        """The batch with the encoders' outputs in place of the cached features."""
        inputs, targets = batch.inputs, batch.targets
        if self.text is not None:
            distinct = {s: i for i, s in enumerate(dict.fromkeys(batch.sentences))}
            tokens, padding = self.text(list(distinct))
            if len(distinct) < len(batch.sentences):
                rows = torch.tensor([distinct[s] for s in batch.sentences]).to(tokens.device)
                tokens, padding = tokens[rows], padding[rows]
            inputs = replace(inputs, tokens=tokens, token_padding=padding)
        if self.backbone is not None:
            levels = [self.encode(group) for group in batch.live]
            inputs = replace(inputs, maps=scatter(levels, batch.live, self.level))
            if targets is not None and self.targets:
                targets = self.further_levels(inputs, targets, batch.live, levels)
        return replace(batch, inputs=inputs, targets=targets)

    def encode(self, group: LiveFrames) -> dict[str, Tensor]:
        """The levels that the head reads, for frames of one size: (n, C, h, w) each. In ``last-stage`` only the last,
        from cached maps of the one before. `AT_ONCE` frames go through the backbone at a time; see ``recompute``."""
        pieces = [self.forgetting(self.levels_of, part) for part in group.values.split(AT_ONCE)]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in (self.level, *self.targets)}

    def levels_of(self, values: Tensor) -> dict[str, Tensor]:
        """The levels of some of the frames of a `LiveFrames`."""
        assert self.backbone is not None
        if self.mode != "last-stage":
            return self.backbone(values)
        maps = values.permute(0, 3, 1, 2).to(next(self.backbone.parameters()).dtype)
        return {self.level: self.backbone.last_stage(maps)}

    def forgetting(self, work: Callable[[Tensor], dict[str, Tensor]], values: Tensor) -> dict[str, Tensor]:
        if self.recompute and self.trains["backbone"] and torch.is_grad_enabled():
            return checkpoint(work, values, use_reentrant=False)
        return work(values)

    def further_levels(
        self, inputs: Inputs, targets: Targets, live: Sequence[LiveFrames], levels: list[dict[str, Tensor]]
    ) -> Targets:
        """Add maps of further levels at the annotated slots."""
        sample, slot = targets.slots
        wanted = inputs.frame_index[sample, slot]  # (G,) rows of U
        return targets.with_levels({}, {name: scatter(levels, live, name)[wanted] for name in self.targets})


def scatter(levels: list[dict[str, Tensor]], live: Sequence[LiveFrames], name: str) -> Tensor:
    """Maps of groups of different sizes in one tensor (U, h, w, C); zero in the padding."""
    found = [maps[name].permute(0, 2, 3, 1) for maps in levels]
    if len(found) == 1:
        return found[0]
    sides = [max(maps.shape[axis] for maps in found) for axis in (1, 2)]
    out = found[0].new_zeros(sum(map(len, found)), *sides, found[0].shape[3])
    for group, maps in zip(live, found, strict=True):
        out[group.rows, : maps.shape[1], : maps.shape[2]] = maps
    return out


def build_encoders(mode: str, cache: Cache, level: str, targets: Sequence[str], sources: Sources) -> LiveEncoders:
    """The encoders of a mode, with the weights that made the cache. ``level`` and ``targets`` as in `CachedDataset`.

    Raises CacheError for other weights, UsageError for an encoder that lacks a part the mode needs.
    """
    recipe = cache.recipe
    backbone = text = None
    words: list[str] = []
    if mode in ("last-stage", "end-to-end"):
        backbone = build_backbone(
            sources.backbone or recipe.visual.name, sources.backbone_weights, sources.weights_seed
        )
        require_weights(backbone.sha256, recipe.visual.sha256, recipe.visual.name, "--backbone-weights")
    if mode in ("text", "end-to-end"):
        name = sources.text_encoder or recipe.text.name
        text = build_text_encoder(name, sources.text_weights, sources.tokenizer, sources.weights_seed)
        require_weights(text.sha256, recipe.text.sha256, recipe.text.name, "--text-weights")
        if words := text.words_of(cache.samples.sentences()):
            text = text.with_words(words)
    if backbone is not None:
        backbone = part_of(backbone, mode, (level, *targets))
    further = targets if mode == "end-to-end" else ()
    return LiveEncoders(mode, backbone, text, level, further, words, sources.weights_seed)


def part_of(backbone: Backbone, mode: str, levels: Sequence[str]) -> Backbone:
    """The part of an encoder that a mode runs for some levels; of several side by side, those that give these
    levels."""
    if isinstance(backbone, Several):
        backbone = backbone.that_give(levels)
    return last_stage_of(backbone) if mode == "last-stage" else backbone


def last_stage_of(backbone: Backbone) -> Backbone:
    """An encoder reduced to its last stage, which reads maps of the level before. Raises UsageError where it has no
    such stage."""
    if not backbone.has_last_stage:
        raise UsageError(
            f"encoder {backbone.name} has no last stage that could train alone",
            expected="an encoder with a method last_stage(maps), which makes the last level of the one before",
            effect="nothing was trained",
            hint="--set train.mode=end-to-end, or cached",
        )
    return backbone.drop_early_stages()


def require_weights(found: str, expected: str, name: str, option: str) -> None:
    if found != expected:
        raise CacheError(
            f"these are not the {name} weights the cache was made with",
            expected=f"sha256 {expected[:16]}…",
            found=f"sha256 {found[:16]}…",
            effect="nothing was trained",
            hint=f"give {option} (and --weights-seed, --tokenizer) as to stvg extract",
        )
