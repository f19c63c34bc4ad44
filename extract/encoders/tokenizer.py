"""Hash tokenizers by everything that changes token ids; find RoBERTa's locally, and verify it on known sentences."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ...wording import first_line

LONGEST = 512
"""Largest number of tokens that RoBERTa reads of a sentence, start and end token included."""
VOCABULARY = 50_265
LAYOUTS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""The files of a tokenizer: the two possible layouts."""
KNOWN = {
    "Hello world": (0, 31414, 232, 2),
    " Élan café, naïve WOMAN’s  hat\n": (
        *(0, 24986, 6847, 26059, 6, 39300, 30916, 1889),
        *(17, 27, 29, 1437, 3988, 50118, 2),
    ),
}
"""RoBERTa's token ids of two sentences: spaces, capitals and accents are kept, no space is prepended."""
REPOSITORIES = ("roberta-base", "FacebookAI/roberta-base")
"""The old and the new repository name in the Hugging Face cache."""


@dataclass(frozen=True)
class TokenReader:
    """The tokenizer of encoder ``name``. ``longest``: tokens read of a sentence, start and end included; None: all."""

    name: str
    tokenizer: Any
    longest: int | None


def in_hub_cache(*names: str) -> Path | None:
    """Path of the first of some files of roberta-base in the local Hugging Face cache; None unless all are there."""
    from huggingface_hub import try_to_load_from_cache

    for repository in REPOSITORIES:
        found = [try_to_load_from_cache(repository, name) for name in names]
        if isinstance(found[0], str) and all(isinstance(file, str) for file in found):
            return Path(found[0])
    return None


def load_tokenizer(folder: str | None, vocabulary: int = VOCABULARY) -> Any:
    """The tokenizer of a folder or of the local cache. Raises CheckpointError if it is missing, or not RoBERTa's.

    The checks are needed because transformers builds an empty tokenizer from a folder without one, and ignores parts of
    tokenizer.json.
    """
    from transformers import AddedToken, RobertaTokenizerFast

    if folder is None and (cached := next(filter(None, (in_hub_cache(*names) for names in LAYOUTS)), None)):
        folder = str(cached.parent)
    where = folder or "the local Hugging Face cache"
    expected = f"vocab.json and merges.txt, or tokenizer.json, of {vocabulary:,} entries"
    hint = "--tokenizer DIR"
    if folder is None or not any(all((Path(folder) / n).is_file() for n in names) for names in LAYOUTS):
        raise CheckpointError(
            f"no RoBERTa tokenizer in {where}", expected=expected, effect="nothing is downloaded", hint=hint
        )
    try:
        # The two layouts may define <mask> differently; here it is always RoBERTa's.
        mask = AddedToken("<mask>", lstrip=True, special=True, normalized=False)
        found = RobertaTokenizerFast.from_pretrained(folder, local_files_only=True, mask_token=mask)
        wrong = differences(found, vocabulary) or _differences_in_file(Path(folder) / "tokenizer.json")
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise CheckpointError(
            f"the tokenizer in {where} cannot be read", expected=expected, found=first_line(error), hint=hint
        ) from None
    if wrong:
        raise CheckpointError(
            f"the tokenizer in {where} is not RoBERTa's", expected=wrong[0], found=wrong[1], hint=hint
        )
    return found


def differences(tokenizer: Any, vocabulary: int) -> tuple[str, str] | None:
    """The first difference from RoBERTa's tokenizer, as (expected, found), or None."""
    marks = (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
    if len(tokenizer) != vocabulary or marks != (0, 1, 2):
        return (
            f"{vocabulary:,} entries; <s>, <pad>, </s> are 0, 1, 2",
            f"{len(tokenizer):,} entries; <s>, <pad>, </s> are {', '.join(map(str, marks))}",
        )
    sides = (tokenizer.padding_side, tokenizer.truncation_side)
    if sides != ("right", "right"):
        return "padding and truncation on the right", f"padding on the {sides[0]}, truncation on the {sides[1]}"
    return _unlike_known({text: tuple(tokenizer(text)["input_ids"]) for text in KNOWN})


def _differences_in_file(file: Path) -> tuple[str, str] | None:
    """As `differences`, but with tokenizer.json read directly: transformers ignores its normaliser, for example."""
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    said = Tokenizer.from_file(str(file))
    said.no_truncation()
    said.no_padding()
    return _unlike_known({text: tuple(said.encode(text).ids) for text in KNOWN})


def _unlike_known(found: dict[str, tuple[int, ...]]) -> tuple[str, str] | None:
    wrong = next((text for text, ids in found.items() if ids != KNOWN[text]), None)
    if wrong is None:
        return None
    return f"{wrong!r} is {list(KNOWN[wrong])}", f"it is {list(found[wrong])}"


def tokenizer_sha256(tokenizer: Any) -> str:
    """Hash of everything that decides the token ids of a sentence, independent of the file layout.

    It covers vocabulary, merges, normaliser, splitting, special tokens, added tokens, and the sides of padding and
    truncation. It leaves out offsets, decoding and the lengths set by the last call, which change no ids.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("version", "truncation", "padding", "decoder"):
        state.pop(name, None)
    if not state.get("normalizer"):  # without a normaliser, `normalized` has no effect
        state["added_tokens"] = [{**token, "normalized": False} for token in state["added_tokens"]]
    state["sides"] = [tokenizer.padding_side, tokenizer.truncation_side]
    return hashlib.sha256(json.dumps(_without_offsets(state), sort_keys=True).encode()).hexdigest()


def _without_offsets(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_offsets(v) for k, v in value.items() if k != "trim_offsets"}
    return [_without_offsets(v) for v in value] if isinstance(value, list) else value
