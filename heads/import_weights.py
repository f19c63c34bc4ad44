"""Convert published checkpoints: MDETR, TubeDETR, STCAT, the FSM authors', torchvision's ResNet-101 and Hugging Face's
RoBERTa; of DETR and CG-STVG the encoders only.

A checkpoint is split into up to three files: the backbone and the text encoder, for extraction, and the head, as the
start of training. Every tensor is accounted for: matched, dropped (known, but not used here) or unexpected (unknown).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from ..atomic import write_atomic
from ..cache.schema import Level
from ..errors import CheckpointError, UsageError
from ..extract.encoders.resnet import ANCHOR as BACKBONE
from ..extract.encoders.resnet import ResNet101
from ..extract.encoders.roberta import ANCHOR as TEXT
from ..extract.encoders.roberta import roberta_module, with_pooler
from ..weights import StateDict, Weights, read_weights, some
from .model_config import FeatureFacts, HeadConfig, ModelConfig, TubeDETRConfig
from .published_names import ENCODER_RULES, HEAD_RULES, KINDS, OTHER_HEADS, OWN, ROOT, Rule
from .stcat import names as stcat
from .table import REQUIRED, build_model

FILES = {"backbone": "backbone.safetensors", "text": "roberta.safetensors", "head": "head.safetensors"}
HEAD_FORMAT = "stvg head weights 1"


@dataclass
class Report:
    """The outcome for every tensor of a checkpoint."""

    kind: str
    matched: dict[str, str] = field(default_factory=dict)
    """Published name → part and name here."""
    missing: list[str] = field(default_factory=list)
    """Tensors of the parts that the checkpoint lacks. Training initialises them at random."""
    unexpected: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    """Published name → why it is not used."""
    read: str = ""
    """The file and entry that were read, and the name prefix that was removed."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Number of elements in every part."""

    def lines(self, source: Path, out: Path) -> list[str]:
        """The report as text."""
        found = [f"{self.read or source}: a checkpoint of {self.kind}, {len(self.matched)} tensors matched"]
        for part, size in self.sizes.items():
            count = sum(v.startswith(f"{part}:") for v in self.matched.values())
            found.append(f"  {part:<10} {count:>5} tensors {size:>13,} numbers → {out / FILES[part]}")
        found.append(f"  missing    {len(self.missing):>5} tensors  {grouped(self.missing)}")
        found.append(f"  unexpected {len(self.unexpected):>5} tensors  {some(self.unexpected) or ''}")
        found.append(f"  dropped    {len(self.dropped):>5} tensors")
        for reason in dict.fromkeys(self.dropped.values()):
            names = [k for k, v in self.dropped.items() if v == reason]
            found.append(f"    {some(names, 1)}: {reason}")
        return [line.rstrip() for line in found]


def translate(tensors: StateDict, where: object) -> tuple[dict[str, StateDict], Report]:
    """The parts of a checkpoint, with the names used here. Raises CheckpointError for an unknown kind or an incomplete
    part."""
    plain = plain_names(tensors, where)
    kind = kind_of(plain)
    if any(re.match(OWN, name) for name in tensors):
        raise CheckpointError(
            f"{where} is a checkpoint of stvg train-head, which needs no import",
            effect="nothing was written",
            hint="give it as it is: to --init, and to --backbone-weights or --text-weights if its encoders trained",
        )
    if kind is None:
        raise CheckpointError(
            f"{where} is none of the checkpoints that can be imported",
            expected=", ".join(KINDS),
            found=f"{len(tensors)} tensors, such as {', '.join(sorted(tensors)[:3])}",
        )
    parts: dict[str, StateDict] = {}
    report = Report(kind)
    rules = ENCODER_RULES + ([] if kind in OTHER_HEADS else stcat.RULES if kind == "STCAT" else HEAD_RULES)
    for name, value in tensors.items():
        fit = first_fit(rules, plain[name])
        if fit is None and kind in OTHER_HEADS:
            report.dropped[name] = OTHER_HEADS[kind]
        elif fit is None:
            report.unexpected.append(name)
        elif fit[1].part is None:
            if fit[1].same_as is not None:
                require_same(name, fit[0].expand(fit[1].same_as), tensors, plain, where)
            report.dropped[name] = fit[1].name
        else:
            match, rule = fit
            ours = match.expand(rule.name)
            # A 1x1 convolution is a linear layer.
            part = parts.setdefault(str(rule.part), {})
            part[ours] = value.flatten(1) if rule.part == "head" and value.dim() > 2 else value
            report.matched[name] = f"{rule.part}: {ours}"
    if "text" in parts:
        parts["text"] = with_pooler(parts["text"])
    if not parts:
        raise CheckpointError(
            f"{where}: a checkpoint of {kind} without an encoder that fits", effect="nothing was written"
        )
    for name, found in parts.items():
        report.missing += require_whole(name, found, where)
        report.sizes[name] = sum(v.numel() for v in found.values())
    return parts, report


def kind_of(plain: dict[str, str]) -> str | None:
    """The kind of checkpoint that has these names, or None. A ``ground_`` head with names that STCAT's rules do not
    know is CG-STVG's, which is derived from STCAT."""
    names = plain.values()
    kind = next((k for k, mark in KINDS.items() if any(re.match(mark, name) for name in names)), None)
    foreign = (n for n in names if n.startswith("ground_") and first_fit(stcat.RULES, n) is None)
    return "CG-STVG" if kind == "STCAT" and any(foreign) else kind


def first_fit(rules: list[Rule], name: str) -> tuple[re.Match[str], Rule] | None:
    """The first rule whose pattern matches the whole name, with its match."""
    return next(((m, rule) for rule in rules if (m := re.fullmatch(rule.pattern, name))), None)


def require_same(name: str, other: str, tensors: StateDict, plain: dict[str, str], where: object) -> None:
    """Raises CheckpointError where ``name`` does not equal the tensor that it should duplicate."""
    found = next((v for k, v in tensors.items() if plain[k] == other), None)
    if found is None or not torch.equal(found, tensors[name]):
        raise CheckpointError(
            f"{where}: {name} is {other} under a second name, but differs from it", effect="nothing was written"
        )


def plain_names(tensors: StateDict, where: object) -> dict[str, str]:
    """Every name as in MDETR's checkpoints, without the prefixes of wrappers around the model and the encoders."""
    found = Weights(tensors, Path(str(where)))
    backbone, text, *roots = (found.prefix_of(anchor) for anchor in (BACKBONE, TEXT, ROOT, stcat.ROOT))
    known = [
        *([(backbone, "backbone.0.body.")] if backbone else []),
        *([(text, "transformer.text_encoder.")] if text and text != "roberta." else []),
        *((root, "") for root in roots if root),
    ]

    def plain(name: str) -> str:
        return next((ours + name[len(theirs) :] for theirs, ours in known if name.startswith(theirs)), name)

    return {name: plain(name) for name in tensors}


def require_whole(part: str, found: StateDict, where: object) -> list[str]:
    """The missing tensors that a part can do without. Raises CheckpointError where a group of tensors is incomplete."""
    expected = head_shapes(found, where) if part == "head" else encoder_shapes(part)
    given = {k: tuple(v.shape) for k, v in found.items()}
    wrong = [f"{k} {given[k]} instead of {expected[k]}" for k in sorted(given.keys() & expected.keys()) if given[k] != expected[k]]  # fmt: skip  # noqa: E501
    unknown = sorted(given.keys() - expected.keys())
    missing = sorted(expected.keys() - given.keys())
    partial = (
        {group_of(k) for k in given} | set(required_of(found)) if part == "head" else {group_of(k) for k in expected}
    )
    lost = [k for k in missing if group_of(k) in partial and not k.startswith("fusion.")]
    if wrong or unknown or lost:
        raise CheckpointError(
            f"{where}: its {part} " + ("is incomplete" if lost else "has tensors of another model"),
            missing=some(lost),
            misshapen=some(wrong),
            unknown=some(unknown),
            effect="nothing was written",
            hint="download the checkpoint again",
        )
    return [f"{part}: {k}" for k in missing]


def grouped(missing: list[str]) -> str:
    """Missing tensors, counted by group."""
    groups = [group_of(name.partition(": ")[2]) for name in missing]
    return ", ".join(f"{g} ({groups.count(g)})" for g in dict.fromkeys(groups))


def group_of(name: str) -> str:
    """The group of a head's tensor: the first component of its name."""
    return name.partition(".")[0]


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in module.state_dict().items()}


@cache
def encoder_shapes(part: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a complete backbone or text encoder."""
    with torch.device("meta"):
        return shapes(ResNet101().body if part == "backbone" else roberta_module())


def head_shapes(found: StateDict, where: object) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a complete head of the size of ``found``."""
    if lost := [g for g in required_of(found) if not any(group_of(k) == g for k in found)]:
        raise CheckpointError(f"{where}: its head is incomplete", missing=", ".join(lost), effect="nothing was written")
    try:
        with torch.device("meta"):
            return shapes(build_model(*(stcat.size_of(found) if is_stcat(found) else size_of(found))))
    except ValueError as error:
        raise CheckpointError(f"{where}: its head has an impossible size", found=error) from None


def is_stcat(head: StateDict) -> bool:
    """Whether these are tensors of an STCAT head."""
    return any(group_of(k) == "template" for k in head)


def required_of(head: StateDict) -> tuple[str, ...]:
    """The groups of tensors that a head of this kind must have."""
    return stcat.REQUIRED if is_stcat(head) else REQUIRED


def size_of(head: StateDict) -> tuple[HeadConfig, FeatureFacts]:
    """The size of a head, inferred from its tensors. The number of attention heads cannot be inferred; published ones
    have 8."""

    def width(name: str, axis: int, default: int) -> int:
        return head[name].shape[axis] if name in head and head[name].dim() == 2 else default

    def layers(stack: str) -> int:
        return 1 + max((int(k.split(".")[2]) for k in head if k.startswith(f"{stack}.layers.")), default=-1)

    config: HeadConfig = TubeDETRConfig() if "fast_encoder.weight" in head else ModelConfig()
    config = replace(
        config,
        d=width("query_embed.weight", 1, 256),
        ffn=width("encoder.layers.0.linear1.weight", 0, 2048),
        encoder_layers=layers("encoder"),
        decoder_layers=max(1, layers("decoder")),
    )
    if isinstance(config, ModelConfig):
        config = replace(config, num_queries=width("query_embed.weight", 0, 1))
    *further, last = (Level(*facts) for facts in ResNet101.levels)
    levels = [replace(k, channels=width(f"level_proj.{k.name}.conv.weight", 1, k.channels)) for k in further]
    levels.append(replace(last, channels=width("input_proj.weight", 1, last.channels)))
    return config, FeatureFacts(tuple(levels), width("resizer.fc.weight", 1, 768))


def import_weights(source: Path, out: Path) -> Report:
    """Write the parts of a checkpoint into the folder ``out``, and report.json last. ``source``: see `read_weights`.

    Raises CheckpointError where the checkpoint cannot be read, is of an unknown kind or incomplete, and UsageError
    where ``out`` already holds an import. Nothing is written then.
    """
    if (out / "report.json").exists():
        raise UsageError(f"{out} holds an import already", effect="nothing was written", hint="choose another --out")
    weights = read_weights(source)
    parts, report = translate(weights.tensors, weights.file)
    report.read = str(weights)
    out.mkdir(parents=True, exist_ok=True)
    for part, found in parts.items():
        header = {"format": HEAD_FORMAT, "source": report.kind} if part == "head" else {"format": "pt"}
        write_atomic(out / FILES[part], save({k: v.contiguous() for k, v in found.items()}, metadata=header))
    with weights.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    facts = {"source": weights.file.name, "sha256": digest, "entry": weights.entry, **asdict(report)}
    write_atomic(out / "report.json", json.dumps(facts, indent=1) + "\n")
    return report
