"""The table of text encoders: one row per kind of name, one file per kind. They run once per distinct sentence."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from . import hf_text, minilm, roberta, tiny_text
from .contract import CPU
from .kinds import EncoderKind, EncoderRequest, find
from .plugins import build_plugin
from .text_contract import TextEncoder
from .tokenizer import TokenReader

__all__ = ("TEXT_ENCODERS", "TextEncoder", "build_text_encoder", "token_reader")

log = logging.getLogger(__name__)

TEXT_ENCODERS: tuple[EncoderKind[TextEncoder], ...] = (
    EncoderKind(
        "roberta-base",
        "RoBERTa, as in the papers; weights: a folder or file, or the local Hugging Face cache",
        roberta.build,
        roberta.tokens,
    ),
    EncoderKind("minilm", "MiniLM, small; weights: extra lite, or a folder", minilm.build, minilm.tokens),
    EncoderKind("tiny", "a random vector per word, from a seed; no weights", tiny_text.build),
    EncoderKind(
        "hf:",
        "hf:FOLDER, a text model of transformers (BERT, MiniLM, CLIP, T5, …) with its weights",
        hf_text.build,
        hf_text.tokens,
    ),
    EncoderKind(
        "CLASS", "file.py:Class, package:Class, or an entry point", lambda asked: build_plugin(asked, TextEncoder)
    ),
)


def build_text_encoder(
    name: str,
    weights: str | Path | None = None,
    tokenizer: str | None = None,
    seed: int = 0,
    device: torch.device = CPU,
) -> TextEncoder:
    """A frozen text encoder. ``weights``: a folder, a file, ``random``, or None for the default place of its kind.

    Raises UsageError for an unknown name, CheckpointError for weights or a tokenizer that are missing or do not fit,
    EncoderError for a class that does not fulfil the contract.
    """
    asked = EncoderRequest(name, str(weights) if weights is not None else None, tokenizer, seed, device)
    kind, asked = find(TEXT_ENCODERS, "text encoder", asked)
    found = kind.build(asked)
    log.info("%s: weights %s", found.name, found.source)
    return found


def token_reader(name: str, tokenizer: str | None = None) -> TokenReader | None:
    """A text encoder's tokenizer and longest sentence, without its weights; None if any length is read, or unknown.

    Raises UsageError for an unknown name, CheckpointError for a tokenizer that is missing or does not fit.
    """
    kind, asked = find(TEXT_ENCODERS, "text encoder", EncoderRequest(name, tokenizer=tokenizer))
    return kind.tokens(asked)
