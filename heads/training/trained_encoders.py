"""Rebuilds the encoders of a checkpoint whose run trained them, so that their weights can be loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...errors import CheckpointError, UsageError
from ...extract.encoders.backbone import Backbone, build_backbone
from ...extract.encoders.text import TextEncoder, build_text_encoder
from .live_encoders import LiveEncoders, Sources, part_of


def encoders_of(facts: dict[str, Any], sources: Sources) -> LiveEncoders:
    """The encoders for the weights of a checkpoint. ``sources``: the present locations of their classes, folders and
    tokenizer.

    Raises UsageError where an encoder is not found, CheckpointError where it differs from the trained one.
    """
    backbone: Backbone | None = None
    text: TextEncoder | None = None
    words, seed = facts.get("words", []), facts.get("seed", 0)
    if facts["backbone"]:
        with naming_option(facts["backbone"], sources.backbone, "--backbone"):
            backbone = build_backbone(sources.backbone or facts["backbone"], sources.backbone_weights or "random")
        require_class(backbone, facts, "backbone", "--backbone")
        backbone = part_of(backbone, facts["mode"], (facts["level"], *facts["targets"]))
    if facts["text"]:
        with naming_option(facts["text"], sources.text_encoder, "--text-encoder"):
            name = sources.text_encoder or facts["text"]
            text = build_text_encoder(name, sources.text_weights or "random", sources.tokenizer, seed)
        require_class(text, facts, "text", "--text-encoder")
        text = text.with_words(words) if words else text
        trained_with, found = facts.get("tokenizer_sha256"), getattr(text, "tokenizer_sha256", None)
        if trained_with and trained_with != found:
            raise CheckpointError(
                "this is not the tokenizer that the text encoder was trained with",
                expected=f"sha256 {trained_with[:16]}…",
                found=f"sha256 {str(found)[:16]}…",
                hint="--tokenizer DIR",
            )
    return LiveEncoders(facts["mode"], backbone, text, facts["level"], tuple(facts["targets"]), words, seed)


@contextmanager
def naming_option(recorded: str, given: str | None, option: str) -> Iterator[None]:
    """Name the option for a moved encoder in the UsageError of one that is not found under its recorded name."""
    try:
        yield
    except UsageError as error:
        if given is not None:
            raise
        raise UsageError(
            f"the encoder that trained with this head is not found: {error.message}",
            expected=f"{recorded}, as it is recorded",
            found=error.facts.get("found"),
            effect="nothing was predicted",
            hint=f"{option} NAME, with the path where it lies now",
        ) from error


def require_class(encoder: Backbone | TextEncoder, facts: Mapping[str, Any], kind: str, option: str) -> None:
    """Raises CheckpointError where the encoder's class differs from the trained one: the weights might fit by
    chance."""
    recorded = facts.get("classes", {}).get(kind)
    if recorded and recorded != encoder.class_sha256:
        raise CheckpointError(
            f"encoder {encoder.name} is not the one that trained with this head",
            expected=f"{facts[kind]}, source sha256 {recorded[:16]}…",
            found=f"{encoder.name}, source sha256 {encoder.class_sha256[:16]}…",
            effect="nothing was predicted",
            hint=f"{option} NAME, with the source as it was then",
        )
