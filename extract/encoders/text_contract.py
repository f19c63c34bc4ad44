"""What an encoder of sentences gives, and what is done once for every one of them: check, pad, freeze, hash.

The class behind a name has the fact ``width`` and a call from sentences to token features. It may have a ``tokenizer`` and
the ``longest`` number of tokens it reads of a sentence.
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

    Its hash is of the weights, of all of the tokenizer that decides on ids, and of the longest length.
    """

    def __init__(self, encoder: Any, origin: Origin, sha256: str | None = None) -> None:
        super().__init__(encoder, origin, sha256)
        width = getattr(encoder, "width", None)
        if not isinstance(width, int) or width < 1:
            raise EncoderError(
                f"text encoder {origin.name} does not say its width", expected="width = 768", found=width
            )
        self.width = width
        tokenizer = getattr(encoder, "tokenizer", None)
        self.tokenizer = tokenizer and TokenReader(origin.name, tokenizer, getattr(encoder, "longest", None))
        """Of an encoder that reads tokens."""
        self.tokenizer_sha256: str | None = None
        if tokenizer is not None:
            self.tokenizer_sha256 = tokenizer_sha256(tokenizer)
            if sha256 is None:
                said = f"{self.sha256} {self.tokenizer_sha256} {self.longest}"
                self.sha256 = hashlib.sha256(said.encode()).hexdigest()

    @property
    def longest(self) -> int | None:
        """Tokens it reads of a sentence, marks included; None: any number."""
        return self.tokenizer.longest if self.tokenizer else None

    def forward(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Features (B, M, width), start and end marks included, and their padding (B, M) bool, True where there is none."""
        found = self.encoder(sentences)
        if isinstance(found, list):
            found = padded_together(self.checked_list(found, len(sentences)))
        return self.checked(found, len(sentences))

    @torch.inference_mode()
    def encode(self, sentences: list[str]) -> list[NDArray[np.float32]]:
        """Per sentence (M, width) float32, whatever else is in the batch."""
        if not sentences:
            return []
        with float32_products():
            hidden, padding = self(sentences)
        values, kept = hidden.float().cpu().numpy(), (~padding).cpu().numpy()
        return [values[i][kept[i]] for i in range(len(sentences))]

    def with_words(self, words: Sequence[str]) -> TextEncoder:
        """Where the class learns words one by one (it has `words` and `with_words`): the encoder that learns these."""
        return TextEncoder(self.encoder.with_words(words), self.origin, self.sha256)

    def words_of(self, sentences: Iterable[str]) -> list[str]:
        """The words that such a class can learn of some sentences, sorted; none of any other class."""
        if not (self.offers("words") and self.offers("with_words")):
            return []
        return sorted({word for sentence in sentences for word in self.encoder.words(sentence)})

    def for_extraction(self, device: torch.device) -> TextEncoder:
        """On a device."""
        return TextEncoder(self.moved(self.encoder, device), self.origin, self.sha256)

    def trained(self) -> list[nn.Parameter]:
        """All but a pooler, which never sees a gradient, unless the class says which."""
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
            f"text encoder {self.name} does not give what it says it gives", expected=expected, found=found
        )


def padded_together(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features (M_i, width) of several sentences as one (B, M, width), and the padding (B, M)."""
    lengths = torch.tensor([len(f) for f in features], device=features[0].device)
    together = nn.utils.rnn.pad_sequence(list(features), batch_first=True)
    return together, torch.arange(together.shape[1], device=lengths.device) >= lengths[:, None]
