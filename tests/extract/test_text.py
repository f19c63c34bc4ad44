from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from stvg.errors import CheckpointError, UsageError
from stvg.extract.encoders.roberta import Roberta
from stvg.extract.encoders.text import TextEncoder, build_text_encoder
from stvg.extract.encoders.tokenizer import load_tokenizer

SENTENCES = ["Hello world!", "the man in red walks across the street and then turns round", "a"]


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> str:
    return str(shared / "real" / "roberta-base-tokenizer")


@pytest.fixture(scope="module")
def roberta(tokenizer: str) -> TextEncoder:
    encoder = build_text_encoder("roberta-base", "random", tokenizer)
    assert isinstance(encoder.encoder, Roberta)
    return encoder


def test_roberta_tokenises_as_published(roberta: TextEncoder) -> None:
    ids, mask = roberta.encoder.tokenize(["Hello world!", "a"])
    assert ids[0].tolist() == [0, 31414, 232, 328, 2]
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


def test_roberta_has_the_fields_parameters(roberta: TextEncoder) -> None:
    assert sum(p.numel() for p in roberta.encoder.module.parameters()) == 124_645_632
    assert not roberta.encoder.module.training
    assert not any(p.requires_grad for p in roberta.encoder.module.parameters())


def test_a_sentence_does_not_notice_its_batch(roberta: TextEncoder) -> None:
    for sentence, together in zip(SENTENCES, roberta.encode(SENTENCES), strict=True):
        (alone,) = roberta.encode([sentence])
        assert alone.shape == together.shape == (len(roberta.encoder.tokenize([sentence])[0][0]), 768)
        assert together.dtype == np.float32
        np.testing.assert_allclose(together, alone, atol=2e-5)


def test_words_change_with_their_context_in_roberta(roberta: TextEncoder) -> None:
    first, second = roberta.encode(["red man", "red car"])
    assert np.abs(first[1] - second[1]).max() > 1e-3


def test_a_sentence_that_is_too_long_is_cut_at_512_tokens(roberta: TextEncoder) -> None:
    ids, _ = roberta.encoder.tokenize(["word " * 700])
    assert ids.shape == (1, 512)
    assert ids[0, -1] == 2


def test_random_roberta_follows_its_seed_and_leaves_the_callers_random_state_alone(
    roberta: TextEncoder, tokenizer: str
) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = build_text_encoder("roberta-base", "random", tokenizer)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.sha256 == roberta.sha256
    assert np.array_equal(again.encode(SENTENCES[:1])[0], roberta.encode(SENTENCES[:1])[0])


def test_roberta_loads_a_file_of_tubedetrs_names(roberta: TextEncoder, tokenizer: str, tmp_path: Path) -> None:
    state = {f"transformer.text_encoder.{k}": v for k, v in roberta.encoder.module.state_dict().items()}
    state["transformer.text_encoder.embeddings.position_ids"] = torch.arange(514)[None]
    torch.save({"model": {**state, "bbox_embed.weight": torch.ones(1)}}, tmp_path / "tubedetr.pth")
    loaded = build_text_encoder("roberta-base", str(tmp_path / "tubedetr.pth"), tokenizer)
    assert loaded.sha256 == roberta.sha256


def test_what_is_missing_is_named_and_never_fetched(
    tokenizer: str, tmp_path: Path, shared: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckpointError, match="no RoBERTa weights in"):
        build_text_encoder("roberta-base", str(tmp_path), tokenizer)
    pointer = shared / "real" / "nasty" / "corrupt" / "lfs_pointer_resnet18-5c106cde.pth"
    with pytest.raises(CheckpointError, match="git-lfs pointer"):
        build_text_encoder("roberta-base", str(pointer), tokenizer)
    with pytest.raises(CheckpointError, match="no RoBERTa tokenizer in"):
        build_text_encoder("roberta-base", "random", str(tmp_path / "nowhere"))
    assert capfd.readouterr().err == ""


def publish(roberta: TextEncoder, folder: Path, **changed: torch.Tensor | None) -> Path:
    """A folder as published: prefixed names, a language-model head, no pooler. None in ``changed`` leaves one out."""
    state = {f"roberta.{k}": v for k, v in roberta.encoder.module.state_dict().items() if not k.startswith("pooler.")}
    state |= {"lm_head.bias": torch.zeros(3), **{k.replace("__", "."): v for k, v in changed.items()}}
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in state.items() if v is not None}, folder / "model.safetensors")
    for name in ("vocab.json", "merges.txt"):
        (folder / name).symlink_to(Path(roberta.encoder.tokenizer.name_or_path) / name)
    return folder


def test_a_published_folder_loads_and_hashes_alike_every_time(roberta: TextEncoder, tmp_path: Path) -> None:
    folder = str(publish(roberta, tmp_path / "published"))
    first, second = (build_text_encoder("roberta-base", folder) for _ in range(2))
    assert first.sha256 == second.sha256
    np.testing.assert_array_equal(first.encode(SENTENCES[:1])[0], roberta.encode(SENTENCES[:1])[0])


def test_a_folder_that_lacks_a_tensor_is_refused_not_filled_with_random_numbers(
    roberta: TextEncoder, tmp_path: Path
) -> None:
    lost = {"roberta__encoder__layer__3__output__dense__weight": None}
    folder = publish(roberta, tmp_path / "published", **lost)
    with pytest.raises(CheckpointError, match="does not fit RobertaModel") as caught:
        build_text_encoder("roberta-base", str(folder))
    assert caught.value.facts["missing"] == "encoder.layer.3.output.dense.weight"


def test_a_folder_with_a_broken_or_narrower_model_is_refused(tokenizer: str, tmp_path: Path) -> None:
    narrow = {"roberta.embeddings.word_embeddings.weight": torch.zeros(10, 4)}
    save_file(narrow, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not fit RobertaModel"):
        build_text_encoder("roberta-base", str(tmp_path), tokenizer)
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(CheckpointError, match="git-lfs pointer"):
        build_text_encoder("roberta-base", str(tmp_path), tokenizer)
    (tmp_path / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        build_text_encoder("roberta-base", str(tmp_path), tokenizer)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "no RoBERTa tokenizer"),
        ({"vocab.json": "{"}, "no RoBERTa tokenizer"),
        ({"vocab.json": '{"a": 1', "merges.txt": "#version: 0.2"}, "cannot be read"),
        (
            {"vocab.json": '{"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3}', "merges.txt": "#version: 0.2"},
            "is not RoBERTa's",
        ),
    ],
)
def test_a_folder_without_robertas_tokenizer_is_refused(files: dict[str, str], reason: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=reason):
        load_tokenizer(str(tmp_path), 50265)


def test_no_sentences_give_no_features(roberta: TextEncoder) -> None:
    assert roberta.encode([]) == build_text_encoder("tiny").encode([]) == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_tiny_encodes_any_sentences_alike_alone_and_in_a_batch(sentences: list[str]) -> None:
    tiny = build_text_encoder("tiny")
    for sentence, found in zip(sentences, tiny.encode(sentences), strict=True):
        assert found.dtype == np.float32
        assert found.shape[0] >= 2
        assert found.shape[1] == tiny.width == 64
        assert np.array_equal(found, tiny.encode([sentence])[0])


def test_tiny_ignores_case_and_splits_off_punctuation() -> None:
    tiny = build_text_encoder("tiny")
    plain, shouted = tiny.encode(["the red circle .", "The RED circle."])
    assert plain.shape == (6, 64)
    assert np.array_equal(plain, shouted)


def test_tiny_words_are_of_unit_scale_and_far_apart() -> None:
    words = [f"word{i}" for i in range(200)]
    (found,) = build_text_encoder("tiny").encode([" ".join(words)])
    assert abs(float(found.std()) - 1) < 0.05
    alike = found @ found.T / 64 - np.eye(len(found)) * (found**2).mean(1)
    assert np.abs(alike).max() < 0.75
    assert not np.array_equal(found, build_text_encoder("tiny", seed=1).encode([" ".join(words)])[0])


def test_options_that_fit_no_encoder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no text encoder 'robert'"):
        build_text_encoder("robert")
    with pytest.raises(UsageError, match="no weights and no tokenizer"):
        build_text_encoder("tiny", str(tmp_path))
