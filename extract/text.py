"""Frozen text encoders: RoBERTa-base, and a tiny one that knows words but no context. Once per distinct sentence."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..cache.config import nearest
from ..cache.errors import CheckpointError, UsageError
from .weights import load_exactly, read_state_dict, seeded, state_sha256

log = logging.getLogger(__name__)

LONGEST = 512


class TextEncoder(Protocol):
    """Sentences → token features."""

    name: str
    width: int
    weights_sha256: str
    """Of the weights and the vocabulary together."""

    def encode(self, sentences: list[str]) -> list[NDArray[np.float32]]:
        """Per sentence (M, width) float32, start and end marks included, whatever else is in the batch."""
        ...


class Roberta:
    """RoBERTa-base of the transformers library; features are its last hidden state."""

    name, width = "roberta-base", 768

    def __init__(self, module: nn.Module, tokenizer: Any) -> None:
        self.module, self.tokenizer = module.eval().requires_grad_(False), tokenizer
        vocabulary = sorted(tokenizer.get_vocab().items())
        self.weights_sha256 = state_sha256(module.state_dict(), repr(vocabulary).encode())

    def tokenize(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, (B, M) int64 each, padded to the longest."""
        found = self.tokenizer(sentences, padding="longest", truncation=True, max_length=LONGEST, return_tensors="pt")
        if found["input_ids"].shape[1] == LONGEST:
            log.warning("a sentence was cut at %d tokens", LONGEST)
        return found["input_ids"], found["attention_mask"]

    @torch.inference_mode()
    def encode(self, sentences: list[str]) -> list[NDArray[np.float32]]:
        ids, mask = self.tokenize(sentences)
        device = next(self.module.parameters()).device
        hidden = self.module(ids.to(device), attention_mask=mask.to(device)).last_hidden_state.float().cpu().numpy()
        return [hidden[i, :length] for i, length in enumerate(mask.sum(1).tolist())]


class TinyText:
    """Every word, lower-cased, has a seeded random vector of unit variance; no context, no unknown words."""

    name, width = "tiny", 64

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.weights_sha256 = hashlib.sha256(f"tiny text {seed}".encode()).hexdigest()

    def encode(self, sentences: list[str]) -> list[NDArray[np.float32]]:
        words = [["<s>", *re.findall(r"\w+|[^\w\s]", sentence.lower()), "</s>"] for sentence in sentences]
        vectors = {w: self.vector(w) for w in {w for sentence in words for w in sentence}}
        return [np.stack([vectors[w] for w in sentence]) for sentence in words]

    def vector(self, word: str) -> NDArray[np.float32]:
        return torch.randn(self.width, generator=seeded(self.seed, f"word {word}")).numpy()


@contextmanager
def _offline() -> Iterator[None]:
    """Nothing is fetched, and transformers keeps its progress bars and advice to itself."""
    import transformers

    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)


def _roberta(weights: str | None, tokenizer: str | None, seed: int) -> Roberta:
    from transformers import RobertaConfig, RobertaModel

    with _offline():
        if weights == "random":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                config = RobertaConfig(
                    vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
                )
                module: nn.Module = RobertaModel(config)
            return Roberta(module, _tokenizer(tokenizer))
        if weights is not None and Path(weights).is_file():
            module = RobertaModel(RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1))
            load_exactly(module, _plain_names(read_state_dict(Path(weights))), weights)
            return Roberta(module, _tokenizer(tokenizer))
        try:
            module = RobertaModel.from_pretrained(weights or "roberta-base", local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"no RoBERTa weights in {weights}" if weights else "no weights for roberta-base",
                expected="a folder with config.json and model.safetensors, or the local Hugging Face cache",
                found=str(error).splitlines()[0][:160],
                effect="nothing is downloaded",
                hint="--text-weights DIR, or --text-weights random --tokenizer DIR to try things out",
            ) from None
        return Roberta(module, _tokenizer(tokenizer or weights or "roberta-base"))


def _plain_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published names without their prefix; position ids, which old files carry, are no weights."""
    for prefix in ("transformer.text_encoder.", "roberta."):
        if any(k.startswith(prefix) for k in tensors):
            tensors = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    return {k: v for k, v in tensors.items() if k != "embeddings.position_ids"}


def _tokenizer(folder: str | None) -> Any:
    from transformers import RobertaTokenizerFast

    try:
        return RobertaTokenizerFast.from_pretrained(folder or "roberta-base", local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"no RoBERTa tokenizer in {folder or 'the local Hugging Face cache'}",
            expected="vocab.json and merges.txt, or tokenizer.json",
            found=str(error).splitlines()[0][:160],
            effect="nothing is downloaded",
            hint="--tokenizer DIR",
        ) from None


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
