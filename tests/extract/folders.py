"""Folders as transformers saves models: small ones with the weights they are born with."""

from __future__ import annotations

from pathlib import Path

import torch


def hf_folder(folder: Path, kind: str) -> str:
    """A small network of transformers with the weights it is born with."""
    import transformers as t

    settings = {
        "dinov2": lambda: t.Dinov2WithRegistersConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
        ),
        "swin": lambda: t.SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, image_size=64),
        "convnext": lambda: t.ConvNextConfig(hidden_sizes=[4, 8, 12, 16], depths=[1] * 4),
        "resnet": lambda: t.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8, 12, 16], depths=[1] * 4),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        t.AutoModel.from_config(settings[kind]()).save_pretrained(folder)
    return f"hf:{folder}"


def text_folder(folder: Path, kind: str) -> str:
    """A small text model of transformers with a tokenizer of single letters."""
    import transformers as t
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3} | {c: i + 4 for i, c in enumerate("abcdefgh ")}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **marks).save_pretrained(folder)
    size = {"vocab_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    settings = {
        "bert": lambda: t.BertConfig(hidden_size=8, max_position_embeddings=12, **size),
        "roberta": lambda: t.RobertaConfig(hidden_size=8, max_position_embeddings=14, **size, **ends),
        "t5": lambda: t.T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2),
        "clip": lambda: t.CLIPConfig(
            text_config={"hidden_size": 8, "max_position_embeddings": 10, **size, **ends},
            vision_config={"hidden_size": 8, "image_size": 32, "patch_size": 16, "num_attention_heads": 2},
        ),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        t.AutoModel.from_config(settings[kind]()).save_pretrained(folder)
    return f"hf:{folder}"
