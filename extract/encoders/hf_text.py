"""``hf:FOLDER`` as text encoder: text models of transformers (BERT, MiniLM, CLIP's text tower, T5's encoder, …)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, UsageError
from ...wording import first_line
from .contract import Origin
from .huggingface import config_of, loaded, model_folder, name_of, require_whole, weights_elsewhere
from .kinds import EncoderRequest
from .networks import quietly, randomise
from .text_contract import TextEncoder
from .tokenizer import TokenReader

UNLIMITED = 10**6
"""A tokenizer whose stated length is above this has no limit."""
UNUSED = "pooler."
"""The pooler is not used, so weights may lack it; missing tensors are filled with zeros."""


class HfText(nn.Module):
    """Features are the last hidden state of an encoder of transformers."""

    def __init__(self, network: nn.Module, tokenizer: Any, longest: int | None) -> None:
        super().__init__()
        self.network, self.tokenizer, self.longest = network, tokenizer, longest
        self.width = int(network.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def forward(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        device = next(self.network.parameters()).device
        limit = {"truncation": True, "max_length": self.longest} if self.longest else {}
        found = self.tokenizer(sentences, padding="longest", return_tensors="pt", **limit).to(device)
        mask = found["attention_mask"]
        return self.network(found["input_ids"], attention_mask=mask).last_hidden_state, mask != 1


def build(asked: EncoderRequest) -> TextEncoder:
    folder = model_folder(asked.name, "text encoder")
    if asked.weights not in (None, "random"):
        raise weights_elsewhere(asked, "--text-weights")
    kind, config = text_model(folder)
    network = quietly(lambda: kind(config))
    if asked.random:
        randomise(network, asked.seed)
        source = f"random, seed {asked.seed}"
    else:
        network, missing = loaded(kind, config, folder)
        require_whole(folder, [k for k in missing if UNUSED not in k])
        for name in missing:
            network.get_parameter(name).data.zero_()
        source = str(folder)
    place = asked.tokenizer or str(folder)
    tokenizer = read_tokenizer(place)
    encoder = HfText(network.eval().to(asked.device), tokenizer, longest_of(network, tokenizer))
    extra = f"hf text {config.model_type}".encode()
    return TextEncoder(encoder, Origin(f"hf:{name_of(folder)}", f"{source}; tokenizer {place}", extra))


def tokens(asked: EncoderRequest) -> TokenReader:
    folder = model_folder(asked.name, "text encoder")
    kind, config = text_model(folder)
    tokenizer = read_tokenizer(asked.tokenizer or str(folder))
    with torch.device("meta"):
        return TokenReader(f"hf:{name_of(folder)}", tokenizer, longest_of(kind(config), tokenizer))


def text_model(folder: Path) -> tuple[Any, Any]:
    """The model class that encodes text, and its config: of CLIP the text model, of T5 the encoder."""
    from transformers import AutoModel, AutoModelForTextEncoding

    config = config_of(folder)
    config = getattr(config, "text_config", None) or config
    mappings = (AutoModelForTextEncoding._model_mapping, AutoModel._model_mapping)
    kind: Any = next((mapping[type(config)] for mapping in mappings if type(config) in mapping), None)
    if kind is None or (getattr(config, "is_encoder_decoder", False) and "Encoder" not in kind.__name__):
        raise UsageError(
            f"{folder} holds no encoder of text",
            found=f"a model of type {config.model_type}",
            hint="your own class",
        )
    return kind, config


def read_tokenizer(folder: str) -> Any:
    """The tokenizer of a folder, padding on the right. Raises CheckpointError if it is missing or cannot be used."""
    from transformers import AutoTokenizer

    hint = "--tokenizer DIR"
    files = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
    if not any((Path(folder) / name).is_file() for name in files):
        raise CheckpointError(
            f"no tokenizer in {folder}",
            expected=f"one of {', '.join(files)}",
            effect="nothing is downloaded",
            hint=hint,
        )
    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise CheckpointError(f"the tokenizer in {folder} cannot be read", found=first_line(error), hint=hint) from None
    if getattr(found, "backend_tokenizer", None) is None:
        raise CheckpointError(f"the tokenizer in {folder} has no tokenizer.json to hash", hint=hint)
    if len(found) == 0:
        raise CheckpointError(f"the tokenizer in {folder} knows no words", hint=hint)
    found.padding_side = found.truncation_side = "right"
    if found.pad_token is None:
        found.pad_token = found.eos_token
    return found


def longest_of(network: Any, tokenizer: Any) -> int | None:
    """Largest number of tokens, by the tokenizer's limit and the model's positions; None: no limit."""
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < UNLIMITED else []
    positions = getattr(network.config, "max_position_embeddings", None)
    if positions:
        tables = [m for n, m in network.named_modules() if n.endswith("position_embeddings")]
        padding = next((m.padding_idx for m in tables if isinstance(m, nn.Embedding)), None)
        limits.append(positions if padding is None else positions - padding - 1)  # RoBERTa counts from there
    return min(limits, default=None)
