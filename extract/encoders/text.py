"""The table of encoders of sentences: one row a kind, one file behind it. They run once per distinct sentence."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from . import hf_text, minilm, roberta, tiny_text
from .contract import CPU
from .kinds import Kind, Request, build
from .plugins import build_plugin
from .text_contract import TextEncoder

__all__ = ("TEXT_ENCODERS", "TextEncoder", "build_text_encoder")

log = logging.getLogger(__name__)

TEXT_ENCODERS: tuple[Kind[TextEncoder], ...] = (
    Kind(
        "roberta-base",
        "RoBERTa of the field; weights: a folder or file, or the local Hugging Face cache",
        roberta.build,
    ),
    Kind("minilm", "MiniLM, small, of sentences; weights: stvg[lite], or a folder", minilm.build),
    Kind("tiny", "words without context, seeded; no weights", tiny_text.build),
    Kind("hf:", "hf:FOLDER, a text model of transformers (BERT, MiniLM, CLIP, T5, …) with its weights", hf_text.build),
    Kind("CLASS", "file.py:Class, package:Class, or an entry point", lambda asked: build_plugin(asked, TextEncoder)),
)


def build_text_encoder(
    name: str,
    weights: str | Path | None = None,
    tokenizer: str | None = None,
    seed: int = 0,
    device: torch.device = CPU,
) -> TextEncoder:
    """A frozen text encoder. ``weights``: a folder, a file, ``random``, or None for where its kind keeps its own.

    Raises UsageError for an unknown name, CheckpointError for weights or a tokenizer that are missing or do not fit,
    EncoderError for a class that does not keep the contract.
    """
    asked = Request(name, str(weights) if weights is not None else None, tokenizer, seed, device)
    found = build(TEXT_ENCODERS, "text encoder", asked)
    log.info("%s: weights %s", found.name, found.source)
    return found
