"""The interface of text encoders, and what is shared by all of them: checks, padding, freezing, hashing.

An encoder class has the attribute ``width`` and a call from sentences to token features. It may have a ``tokenizer``,
and ``longest``, the largest number of tokens that it reads of a sentence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import EncoderError
from ...precision import float32_products
from .contract import Frozen, Origin
from .tokenizer import TokenReader, tokenizer_sha256


class TextEncoder(Frozen):
    """Sentences → token features, frozen (`encode`) or with gradients (`forward`).

    Its hash covers the weights, everything in the tokenizer that decides token ids, and the longest length.
    """

    def __init__(self, encoder: Any, origin: Origin, sha256: str | None = None) -> None:
        super().__init__(encoder, origin, sha256)
        width = getattr(encoder, "width", None)
        if not isinstance(width, int) or width < 1:
            raise EncoderError(
                f"text encoder {origin.name} declares no width", expected="a positive integer: width = 768", found=width
            )
        self.width = width
        tokenizer = getattr(encoder, "tokenizer", None)
        self.tokenizer = tokenizer and TokenReader(origin.name, tokenizer, getattr(encoder, "longest", None))
        """None if the encoder uses no tokenizer."""
        self.tokenizer_sha256: str | None = None
        if tokenizer is not None:
            self.tokenizer_sha256 = tokenizer_sha256(tokenizer)
            if sha256 is None:
                said = f"{self.sha256} {self.tokenizer_sha256} {self.longest}"
                self.sha256 = hashlib.sha256(said.encode()).hexdigest()

    @property
    def longest(self) -> int | None:
        """Largest number of tokens read of a sentence, start and end included; None: no limit."""
        return self.tokenizer.longest if self.tokenizer else None

    def forward(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Token features (B, M, width), start and end tokens included; padding (B, M) bool, True where no token is."""
        found = self.encoder(sentences)
        if isinstance(found, list):
            found = padded_together(self.checked_list(found, len(sentences)))
        return self.checked(found, len(sentences))

    @torch.inference_mode()
    def encode(self, sentences: list[str]) -> list[NDArray[np.float32]]:
        """Features of each sentence, (M, width) float32, independent of the other sentences of the batch."""
        if not sentences:
            return []
        with float32_products():
            hidden, padding = self(sentences)
        values, kept = hidden.float().cpu().numpy(), (~padding).cpu().numpy()
        return [values[i][kept[i]] for i in range(len(sentences))]

    def with_words(self, words: Sequence[str]) -> TextEncoder:
        """For classes with trainable word vectors (`words`, `with_words`): the encoder in which these words train."""
        return TextEncoder(self.encoder.with_words(words), self.origin, self.sha256)

    def words_of(self, sentences: Iterable[str]) -> list[str]:
        """The trainable words in some sentences, sorted; empty for a class without trainable word vectors."""
        if not (self.offers("words") and self.offers("with_words")):
            return []
        return sorted({word for sentence in sentences for word in self.encoder.words(sentence)})

    def for_extraction(self, device: torch.device) -> TextEncoder:
        """The same encoder on a device."""
        return TextEncoder(self.moved(self.encoder, device), self.origin, self.sha256)

    def trained(self) -> list[nn.Parameter]:
        """The parameters to train: all but a pooler, which gets no gradient; or the result of ``trained()``."""
        if self.offers("trained"):
            return super().trained()
        return [p for n, p in self.named_parameters() if "pooler" not in n]

    def checked_list(self, found: list[Any], count: int) -> list[Tensor]:
        shapes = [tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__ for f in found]
        wrong = next((s for s in shapes if isinstance(s, str) or len(s) != 2 or s[1] != self.width), None)
        if len(found) != count or wrong is not None:
            raise self.fault(f"{count} tensors (tokens, {self.width})", wrong or f"{len(found)} of them")
        return found

    def checked(self, found: Any, count: int) -> tuple[Tensor, Tensor]:
        pair = isinstance(found, tuple) and len(found) == 2 and all(isinstance(f, Tensor) for f in found)
        shapes = [tuple(f.shape) for f in found] if pair else []
        fits = pair and len(shapes[0]) == 3 and shapes[0][::2] == (count, self.width) and shapes[1] == shapes[0][:2]
        if not fits or found[1].dtype != torch.bool:
            expected = f"features ({count}, tokens, {self.width}) and padding ({count}, tokens) bool"
            raise self.fault(expected, f"{shapes}, {found[1].dtype}" if pair else type(found).__name__)
        return found

    def fault(self, expected: str, found: object) -> EncoderError:
        return EncoderError(
            f"text encoder {self.name} does not return what it declares", expected=expected, found=found
        )


def padded_together(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features (M_i, width) of several sentences, padded to (B, M, width), and the padding mask (B, M)."""
    lengths = torch.tensor([len(f) for f in features], device=features[0].device)
    together = nn.utils.rnn.pad_sequence(list(features), batch_first=True)
    return together, torch.arange(together.shape[1], device=lengths.device) >= lengths[:, None]
