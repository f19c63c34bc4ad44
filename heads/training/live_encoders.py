"""Training the encoders, too: that of text, the last stage of the visual one, or everything from pixels, in `train`'s loop.

An encoder that trains runs inside the step and replaces what the cache would have given: token features, maps of the last
level, or all levels. With frozen encoders it gives what the cache gives.
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

AT_ONCE = 32
"""Frames that go through the backbone at a time, as in an extraction: more would need more memory, and be no faster."""


@dataclass(frozen=True)
class Sources:
    """Where live encoders and pixels come from; see `stvg train-head --help`."""

    backbone: str | None = None
    backbone_weights: str | None = None
    text_encoder: str | None = None
    text_weights: str | None = None
    tokenizer: str | None = None
    weights_seed: int = 0
    videos: Path | None = None


class LiveEncoders(nn.Module):
    """The encoders of one training mode; what does not train stays in evaluation mode, without gradients."""

    recompute = False
    """Keep only the frames, and run the backbone on them again in the backward pass: the same bits in less memory."""

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
        """``level``: the one that is remembered. ``targets``: further levels whose maps are computed for the second stream.
        ``words``: those that the text encoder learns, where it learns words. ``seed``: of what was drawn for the others."""
        super().__init__()
        self.words, self.seed = list(words), seed
        self.mode, self.level, self.targets = mode, level, tuple(targets)
        self.backbone, self.text = backbone, text
        self.trains = {"backbone": backbone is not None, "text": text is not None}

    def set_trained(self, backbone: bool, text: bool) -> None:
        """Switch gradients of either encoder on or off."""
        self.trains = {"backbone": backbone and self.backbone is not None, "text": text and self.text is not None}
        self.requires_grad_(False)
        for parameters in self.groups().values():
            for parameter in parameters:
                parameter.requires_grad_(True)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that train, by encoder."""
        found: dict[str, list[nn.Parameter]] = {}
        if self.trains["backbone"]:
            assert self.backbone is not None
            found["backbone"] = self.backbone.trained()
        if self.trains["text"]:
            assert self.text is not None
            found["text"] = self.text.trained()
        return found

    def facts(self) -> dict[str, Any]:
        """What a checkpoint must say so that `trained_encoders` can build these again."""
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
        """The batch with what its encoders say in place of what the cache holds."""
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
        """The levels that the head reads of frames of one size, (n, C, h, w) each; the last alone from cached maps of the
        one before. `AT_ONCE` frames go through the backbone at a time, and are forgotten on the way where it recomputes."""
        pieces = [self.forgetting(self.levels_of, part) for part in group.values.split(AT_ONCE)]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in (self.level, *self.targets)}

    def levels_of(self, values: Tensor) -> dict[str, Tensor]:
        """Of some of the frames of a `LiveFrames`."""
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
        """Maps of further levels at the annotated slots."""
        sample, slot = targets.slots
        wanted = inputs.frame_index[sample, slot]  # (G,) rows of U
        return targets.with_levels({}, {name: scatter(levels, live, name)[wanted] for name in self.targets})


def scatter(levels: list[dict[str, Tensor]], live: Sequence[LiveFrames], name: str) -> Tensor:
    """Maps of differently sized groups in one (U, h, w, C) tensor, zero where padding."""
    found = [maps[name].permute(0, 2, 3, 1) for maps in levels]
    if len(found) == 1:
        return found[0]
    sides = [max(maps.shape[axis] for maps in found) for axis in (1, 2)]
    out = found[0].new_zeros(sum(map(len, found)), *sides, found[0].shape[3])
    for group, maps in zip(live, found, strict=True):
        out[group.rows, : maps.shape[1], : maps.shape[2]] = maps
    return out


def build_encoders(mode: str, cache: Cache, level: str, targets: Sequence[str], sources: Sources) -> LiveEncoders:
    """The encoders of a mode with the weights the cache was made with; ``level`` and ``targets`` as in `CachedDataset`.

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
    """What a mode runs of an encoder for some levels; of several side by side, those that give them."""
    if isinstance(backbone, Several):
        backbone = backbone.that_give(levels)
    return last_stage_of(backbone) if mode == "last-stage" else backbone


def last_stage_of(backbone: Backbone) -> Backbone:
    """An encoder that only ever sees maps of the level before the last. UsageError where it cannot be cut there."""
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
