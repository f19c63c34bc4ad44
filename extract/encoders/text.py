"""Frozen text encoders: RoBERTa-base, and a tiny one that knows words but no context. Once per distinct sentence."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...config import nearest
from ...errors import CheckpointError, UsageError
from ...precision import float32_products
from ...weight_files import NAMES, find_file
from ...weights import StateDict, load_exactly, random_values, read_weights, state_sha256
from .tokenizer import LONGEST, VOCABULARY, in_hub_cache, load_tokenizer, tokenizer_sha256

log = logging.getLogger(__name__)

INITIAL_SPREAD = 0.02
"""Of random weights, as BERT and its kind start."""
ANCHOR = "embeddings.word_embeddings.weight"
"""Where a RoBERTa stands in a larger model is seen by this tensor."""


class TextEncoder(nn.Module):
    """Sentences → token features, frozen (`encode`) or with gradients (`forward`)."""

    name: str
    width: int
    weights_sha256: str
    """Of the weights and all of the tokenizer that decides on ids."""
    source = "random"
    """Where the weights and the tokenizer come from, as printed."""
    tokenizer: Any = None
    """Of an encoder that reads tokens, and no more than LONGEST of a sentence."""

    def forward(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Features (B, M, width), start and end marks included, and their padding (B, M) bool."""
        raise TypeError(f"{type(self).__name__} must say how it encodes")

    @torch.inference_mode()
    def encode(self, sentences: list[str]) -> list[NDArray[np.float32]]:
        """Per sentence (M, width) float32, whatever else is in the batch."""
        if not sentences:
            return []
        with float32_products():
            hidden, padding = self(sentences)
        values, lengths = hidden.float().cpu().numpy(), (~padding).sum(1).cpu().tolist()
        return [values[i, :length] for i, length in enumerate(lengths)]


class Roberta(TextEncoder):
    """RoBERTa-base of the transformers library; features are its last hidden state."""

    name, width = "roberta-base", 768

    def __init__(self, module: nn.Module, tokenizer: Any, source: str = "as given") -> None:
        super().__init__()
        self.module, self.tokenizer = module, tokenizer
        self.source = f"{source}; tokenizer {tokenizer.name_or_path}"
        self.tokenizer_sha256 = tokenizer_sha256(tokenizer)
        self.weights_sha256 = state_sha256(module.state_dict(), self.tokenizer_sha256.encode())
        self.eval().requires_grad_(False)

    def tokenize(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, (B, M) int64 each, padded to the longest and cut at LONGEST tokens."""
        found = self.tokenizer(sentences, padding="longest", truncation=True, max_length=LONGEST, return_tensors="pt")
        return found["input_ids"], found["attention_mask"]

    def forward(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        device = next(self.module.parameters()).device
        ids, mask = (t.to(device) for t in self.tokenize(sentences))
        return self.module(ids, attention_mask=mask).last_hidden_state, mask != 1


class TinyText(TextEncoder):
    """Every word, lower-cased, has a seeded random vector of unit variance; no context, no unknown words.

    The vectors of ``vocabulary`` are parameters, so that they can train; those of other words stay as they are drawn.
    """

    name, width = "tiny", 64

    def __init__(self, seed: int, vocabulary: Iterable[str] = ()) -> None:
        super().__init__()
        self.seed = seed
        self.weights_sha256 = hashlib.sha256(f"tiny text {seed}".encode()).hexdigest()
        self.rows = {word: i for i, word in enumerate(vocabulary)}
        drawn = [self.vector(word) for word in self.rows]
        self.table = nn.Parameter(torch.stack(drawn) if drawn else torch.zeros(0, self.width), requires_grad=False)

    @staticmethod
    def words(sentence: str) -> list[str]:
        return ["<s>", *re.findall(r"\w+|[^\w\s]", sentence.lower()), "</s>"]

    def vector(self, word: str) -> Tensor:
        return random_values((self.width,), self.seed, f"word {word}")

    def forward(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        split = [self.words(sentence) for sentence in sentences]
        unknown = {w: i for i, w in enumerate(sorted({w for words in split for w in words} - self.rows.keys()))}
        drawn = [self.vector(w).to(self.table.device) for w in unknown]
        vectors = torch.cat([self.table, torch.stack(drawn)]) if drawn else self.table
        index = {**self.rows, **{w: len(self.rows) + i for w, i in unknown.items()}}
        rows = [torch.tensor([index[w] for w in words]) for words in split]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).to(vectors.device)
        padding = ids < 0
        return vectors[ids.clamp(min=0)].masked_fill(padding[..., None], 0), padding


def roberta_module() -> nn.Module:
    """RoBERTa-base with weights that mean nothing yet."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(vocab_size=VOCABULARY, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    with torch.random.fork_rng(devices=[]):  # what it draws is replaced, and not the caller's to miss
        return RobertaModel(config)


def _roberta(weights: str | None, tokenizer: str | None, seed: int) -> Roberta:
    module = roberta_module()
    source = f"random, seed {seed}"
    if weights == "random":
        for name, value in module.state_dict().items():
            if value.dim() == 2:
                value.copy_(random_values(value.shape, seed, name) * INITIAL_SPREAD)
    else:
        found = read_weights(_weights_file(weights)).beside(ANCHOR)
        load_exactly(module, plain_names(found.tensors), found)
        source = str(found)
        if tokenizer is None and weights is not None and Path(weights).is_dir():
            tokenizer = weights
    roberta = Roberta(module, load_tokenizer(tokenizer), source)
    log.info("%s: weights %s", roberta.name, roberta.source)
    return roberta


def _weights_file(weights: str | None) -> Path:
    """A file, the file in a folder, or the one in the local Hugging Face cache. Never fetched."""
    if weights is not None:
        return find_file(Path(weights), ("roberta.safetensors", *NAMES), "RoBERTa weights")
    found = next(filter(None, map(in_hub_cache, NAMES)), None)
    if found is None:
        raise CheckpointError(
            "no weights for roberta-base",
            expected=f"{' or '.join(NAMES)} in the local Hugging Face cache",
            effect="nothing is downloaded",
            hint="--text-weights DIR, or --text-weights random --tokenizer DIR to try things out",
        )
    return found


def plain_names(tensors: StateDict) -> StateDict:
    """RoBERTa's weights alone: without the language model's head and the position ids that old files carry."""
    return with_pooler({k: v for k, v in tensors.items() if k != "embeddings.position_ids" and k[:8] != "lm_head."})


def with_pooler(tensors: StateDict) -> StateDict:
    """RoBERTa's weights with a pooler of zeros where there is none, as in the published roberta-base.

    Nothing here uses it. Random values in its place would give the same weights another hash every time.
    """
    pooler = {"pooler.dense.weight": torch.zeros(768, 768), "pooler.dense.bias": torch.zeros(768)}
    return {**pooler, **tensors}


def _tiny(weights: str | None, tokenizer: str | None, seed: int) -> TinyText:
    if weights not in (None, "random") or tokenizer is not None:
        raise UsageError("text encoder tiny has no weights and no tokenizer to load", found=weights or tokenizer)
    return TinyText(seed)


TEXT_ENCODERS: dict[str, Callable[[str | None, str | None, int], TextEncoder]] = {
    "roberta-base": _roberta,
    "tiny": _tiny,
}


def build_text_encoder(
    name: str, weights: str | None = None, tokenizer: str | None = None, seed: int = 0
) -> TextEncoder:
    """A frozen text encoder. ``weights``: a folder, a file, ``random``, or None for the local Hugging Face cache.

    Raises UsageError for an unknown name, CheckpointError for weights or a tokenizer that are missing or do not fit.
    """
    if name not in TEXT_ENCODERS:
        raise UsageError(f"there is no text encoder {name!r}", hint=nearest(name, TEXT_ENCODERS))
    return TEXT_ENCODERS[name](weights, tokenizer, seed)
