"""RoBERTa-base of the transformers library, the text encoder of the papers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ...weight_files import NAMES, find_file
from ...weights import StateDict, load_exactly, random_values, read_weights
from .contract import Origin
from .kinds import EncoderRequest
from .text_contract import TextEncoder
from .tokenizer import LONGEST, VOCABULARY, TokenReader, in_hub_cache, load_tokenizer

INITIAL_SPREAD = 0.02
"""Standard deviation of random weights, as in BERT."""
ANCHOR = "embeddings.word_embeddings.weight"
"""This tensor's name shows the prefix of a RoBERTa inside a larger model."""


class Roberta(nn.Module):
    """Features are the last hidden state."""

    width = 768
    longest = LONGEST

    def __init__(self, module: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.module, self.tokenizer = module, tokenizer

    def tokenize(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, (B, M) int64 each, padded to the longest and cut at LONGEST tokens."""
        found = self.tokenizer(sentences, padding="longest", truncation=True, max_length=LONGEST, return_tensors="pt")
        return found["input_ids"], found["attention_mask"]

    def forward(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        device = next(self.module.parameters()).device
        ids, mask = (t.to(device) for t in self.tokenize(sentences))
        return self.module(ids, attention_mask=mask).last_hidden_state, mask != 1


def build(asked: EncoderRequest) -> TextEncoder:
    module = roberta_module()
    source, tokenizer = f"random, seed {asked.seed}", asked.tokenizer
    if asked.random:
        for name, value in module.state_dict().items():
            if value.dim() == 2:
                value.copy_(random_values(value.shape, asked.seed, name) * INITIAL_SPREAD)
    else:
        found = read_weights(_weights_file(asked.weights)).beside(ANCHOR)
        load_exactly(module, plain_names(found.tensors), found)
        source = str(found)
        if tokenizer is None and asked.weights is not None and Path(asked.weights).is_dir():
            tokenizer = asked.weights
    return wrap(module.to(asked.device), load_tokenizer(tokenizer), source)


def tokens(asked: EncoderRequest) -> TokenReader:
    return TokenReader("roberta-base", load_tokenizer(asked.tokenizer), LONGEST)


def wrap(module: nn.Module, tokenizer: Any, source: str = "as given") -> TextEncoder:
    """A RoBERTa with its tokenizer as an encoder."""
    encoder = Roberta(module, tokenizer)
    return TextEncoder(
        encoder, Origin("roberta-base", f"{source}; tokenizer {tokenizer.name_or_path}", b"roberta-base")
    )


def roberta_module() -> nn.Module:
    """RoBERTa-base with untrained weights."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(vocab_size=VOCABULARY, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    with torch.random.fork_rng(devices=[]):  # keeps the caller's random state
        return RobertaModel(config)


def _weights_file(weights: str | None) -> Path:
    """The file itself, the file in a folder, or the one in the local Hugging Face cache. Nothing is downloaded."""
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
    """RoBERTa's weights, without the language-model head and the position ids of old files."""
    return with_pooler({k: v for k, v in tensors.items() if k != "embeddings.position_ids" and k[:8] != "lm_head."})


def with_pooler(tensors: StateDict) -> StateDict:
    """RoBERTa's weights, with a pooler of zeros if the file has none, as in the published roberta-base.

    The pooler is not used. With random values instead of zeros, the hash of the same weights would differ each time.
    """
    pooler = {"pooler.dense.weight": torch.zeros(768, 768), "pooler.dense.bias": torch.zeros(768)}
    return {**pooler, **tensors}
