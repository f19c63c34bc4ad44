"""The recorded runs of the published STCAT, and ours of the same inputs and weights."""

from __future__ import annotations

import json
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from stvg.cache.batches.batch import Inputs, Targets
from stvg.heads.import_weights import translate
from stvg.heads.model import Output
from stvg.heads.model_config import FeatureFacts
from stvg.heads.stcat.config import STCATConfig
from stvg.heads.stcat.model import STCAT

from ...encoders import levels
from ..golden import RecordedRun

CONFIG = STCATConfig(d=64, heads=4, ffn=128, encoder_layers=2, decoder_layers=2)
FACTS = FeatureFacts(levels((256,), (32,), "c5"), 768)
LAYERS = range(2)


@cache
def described(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "stcat_small.json").read_text())


@cache
def tensors(folder: Path, file: str) -> dict[str, Tensor]:
    return load_file(folder / file)


def imported(folder: Path, config: STCATConfig = CONFIG) -> STCAT:
    """The small recorded head, in evaluation mode."""
    published = tensors(folder, "stcat_small.safetensors")
    head = translate(published, folder)[0]["head"]
    model = STCAT(config, FACTS).eval()
    model.load_state_dict({k: v.float() for k, v in head.items()}, strict=True)
    return model


class Case(RecordedRun):
    """One recorded run, and ours of the same inputs."""

    head = "stcat_small"

    @cached_property
    def real(self) -> Tensor:
        """(B, T): slots that are no padding."""
        durations = torch.tensor(self.facts["durations"])
        return torch.arange(int(durations.max())) < durations[:, None]

    @cached_property
    def inputs(self) -> Inputs:
        r, (B, T) = self.recorded, self.real.shape
        first = self.real.sum(1).cumsum(0) - self.real.sum(1)
        index = torch.where(self.real, first[:, None] + torch.arange(T), first[:, None])
        c5 = r["c5"].float().permute(0, 2, 3, 1)
        assert index.shape == (B, T)
        words = r["text_hidden"].float().transpose(0, 1)
        return Inputs(c5, r["c5_mask"], index, ~self.real, words, r["text_mask"])

    def alone(self, b: int) -> Inputs:
        """One sample of the batch by itself, with the batch's spatial padding and none of its text padding."""
        whole, T = self.inputs, self.facts["durations"][b]
        words = ~whole.token_padding[b]
        return Inputs(
            whole.maps[whole.frame_index[b, :T]],
            whole.cell_padding[whole.frame_index[b, :T]],
            torch.arange(T)[None],
            whole.frame_padding[b : b + 1, :T],
            whole.tokens[b : b + 1, words],
            whole.token_padding[b : b + 1, words],
        )

    @cached_property
    def model(self) -> STCAT:
        return imported(self.folder)

    @cached_property
    def seen(self) -> dict[str, list[Any]]:
        """What went into and out of the modules during the run: lists of (arguments, result), in order of calls."""
        calls: dict[str, list[Any]] = {}
        for name, module in self.model.named_modules():
            module.register_forward_hook(lambda m, a, r, name=name: calls.setdefault(name, []).append((a, r)))
        with torch.no_grad():
            calls["output"] = [self.model(self.inputs)]
        return calls

    @property
    def output(self) -> Output:
        return self.seen["output"][0]

    def by_slot(self, rows: Tensor) -> Tensor:
        """Recorded rows (N, …) of all real frames, video after video, as (B, T, …) with zeros in between."""
        found = rows.new_zeros(*self.real.shape, *rows.shape[1:])
        found[self.real] = rows
        return found

    def equal(self, ours: Tensor, theirs: Tensor, atol: float, what: str, rows: Tensor | None = None) -> None:
        """Compare the real rows of two (B, T, …) tensors."""
        rows = self.real if rows is None else rows
        assert ours.shape == theirs.shape, (self.name, what, ours.shape, theirs.shape)
        torch.testing.assert_close(
            ours[rows], theirs[rows], rtol=0, atol=atol, msg=lambda m: f"{self.name} {what}: {m}"
        )


def targets(case: Case, moments: list[list[int]], boxes: Tensor, keep: Tensor) -> Targets:
    """The annotation of a recorded case of the losses: boxes (G, 4) at rows ``keep`` of (B·T)."""
    B, T = case.real.shape
    inside, every = torch.zeros(B * T, dtype=torch.bool), torch.zeros(B * T, 4)
    inside[keep], every[keep] = True, boxes
    return Targets(every.view(B, T, 4), inside.view(B, T), torch.tensor(moments), torch.ones(B, 2, dtype=torch.int64))
