"""What a step of training end to end keeps for its backward pass, counted on a GPU that computes nothing (counting.py).

    uv run python tests/benchmarks/memory.py [--names FSM TubeDETR STCAT] [--short 224 --long 373]

ResNet-101, RoBERTa-base and a head at its paper's size, 100 frames a clip (STCAT 64), one clip a video, moments
of 40 % of a clip. Bytes of all distinct tensors that autograd has saved, beside weights and pixels; what `train.recompute`
computes again is not among them. The difference of two clips and one is what a clip costs. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from counting import counted, device
from facts import LEVELS, TEXT
from launches import FACTS, HEADS, clips
from tables import heading, line
from torch import Tensor, nn

from stvg.cache.batches.batch import Batch, LiveFrames
from stvg.extract.encoders.contract import Backbone, Origin
from stvg.extract.encoders.resnet import ResNet101
from stvg.extract.encoders.roberta import roberta_module
from stvg.heads.settings import load_experiment
from stvg.heads.training.live_encoders import LiveEncoders

TOKENS = 14


class Words(nn.Module):
    """RoBERTa on made-up tokens: what it keeps does not depend on which they are."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.module = roberta_module()
        self.module.pooler = None
        for module in self.module.modules():
            for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                there = torch.empty(value.shape, dtype=value.dtype, device=device())
                setattr(module, name, nn.Parameter(there) if isinstance(value, nn.Parameter) else there)

    def trained(self) -> list[nn.Parameter]:
        return list(self.parameters())

    def forward(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        ids = torch.ones(len(sentences), TOKENS, dtype=torch.int64, device=device())
        mask = torch.ones_like(ids)
        return self.module(ids, attention_mask=mask).last_hidden_state, mask != 1


def encoders(recompute: bool) -> LiveEncoders:
    """Those of the paper, both of which train."""
    backbone = Backbone(ResNet101(), Origin("resnet101", "", b""), "0")
    last, *further = reversed([level.name for level in LEVELS])
    found = LiveEncoders("end-to-end", backbone, Words(), last, further)  # type: ignore[arg-type]
    found.set_trained(backbone=True, text=True)
    found.recompute = recompute
    return found


def pixels(count: int, frames: int, height: int, width: int) -> Batch:
    """Clips of one size whose frames are still to be encoded."""
    batch = clips(count, frames, (-(-height // 32), -(-width // 32)))
    rows = torch.arange(count * frames)
    values = torch.empty(len(rows), 3, height, width, device="meta")
    inputs = replace(batch.inputs, maps=batch.inputs.maps[..., :0], tokens=batch.inputs.tokens[..., :0])
    sentences = [str(i) for i in range(count)]
    return replace(batch, sentences=sentences, inputs=inputs, live=(LiveFrames(rows, values),))


def kept(name: str, count: int, height: int, width: int, amp: str, recompute: bool) -> int:
    preset, frames = HEADS[name]
    experiment = load_experiment(preset, [f"train.amp={amp}", f"train.recompute={str(recompute).lower()}"])
    batch = pixels(count, frames, height, width)
    return counted(experiment, FACTS, batch, lambda: encoders(recompute)).kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", nargs="+", choices=list(HEADS), default=list(HEADS))
    parser.add_argument("--short", type=int, default=224)
    parser.add_argument("--long", type=int, default=373)
    chosen = parser.parse_args()
    print(f"pixels {chosen.short} x {chosen.long}, {TOKENS} tokens of {TEXT.width}; torch {torch.__version__}\n")
    print(heading(["end to end", "slots", "", "activations", "one clip", "every further clip"]), flush=True)
    for name in chosen.names:
        for amp in ("none", "bf16"):
            for recompute in (False, True):
                one, two = (kept(name, n, chosen.short, chosen.long, amp, recompute) for n in (1, 2))
                how = ["float32" if amp == "none" else amp, "recomputed" if recompute else "kept"]
                cells = [name, HEADS[name][1], *how, f"{one / 1e9:.2f} GB", f"{(two - one) / 1e9:.2f} GB"]
                print(line(cells), flush=True)


if __name__ == "__main__":
    main()
