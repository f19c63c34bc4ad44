"""A small text encoder for the demo and tests: a random vector per word, no context."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...weights import random_values
from .contract import Origin
from .kinds import EncoderRequest
from .text_contract import TextEncoder


class TinyText(nn.Module):
    """Every word, lower-cased, has a seeded random vector of unit variance. There is no context, and no unknown word.

    The vectors of ``vocabulary`` are parameters and can train. Those of other words are constant.
    """

    width = 64

    def __init__(self, seed: int, vocabulary: Iterable[str] = ()) -> None:
        super().__init__()
        self.seed = seed
        self.rows = {word: i for i, word in enumerate(vocabulary)}
        drawn = [self.vector(word) for word in self.rows]
        self.table = nn.Parameter(torch.stack(drawn) if drawn else torch.zeros(0, self.width), requires_grad=False)

    @staticmethod
    def words(sentence: str) -> list[str]:
        return ["<s>", *re.findall(r"\w+|[^\w\s]", sentence.lower()), "</s>"]

    def vector(self, word: str) -> Tensor:
        return random_values((self.width,), self.seed, f"word {word}")

    def with_words(self, words: Iterable[str]) -> TinyText:
        """The same encoder, in which the vectors of these words can train."""
        return TinyText(self.seed, words)

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


def build(asked: EncoderRequest) -> TextEncoder:
    if asked.weights not in (None, "random") or asked.tokenizer is not None:
        found = asked.weights if asked.weights not in (None, "random") else asked.tokenizer
        raise UsageError("text encoder tiny has no weights and no tokenizer to load", found=found)
    return wrap(TinyText(asked.seed).to(asked.device))


def wrap(encoder: TinyText) -> TextEncoder:
    """Wrap the encoder. Its hash does not cover the vocabulary: untrained vectors in the table change no feature."""
    sha256 = hashlib.sha256(f"tiny text {encoder.seed}".encode()).hexdigest()
    return TextEncoder(encoder, Origin("tiny", f"random, seed {encoder.seed}"), sha256)
