from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.cache.errors import CheckpointError, UsageError
from stvg.extract.text import Roberta, build_text_encoder

SENTENCES = ["Hello world!", "the man in red walks across the street and then turns round", "a"]


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> str:
    return str(shared / "real" / "roberta-base-tokenizer")


@pytest.fixture(scope="module")
def roberta(tokenizer: str) -> Roberta:
    encoder = build_text_encoder("roberta-base", "random", tokenizer)
    assert isinstance(encoder, Roberta)
    return encoder


def test_roberta_tokenises_as_published(roberta: Roberta) -> None:
    ids, mask = roberta.tokenize(["Hello world!", "a"])
    assert ids[0].tolist() == [0, 31414, 232, 328, 2]
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


def test_roberta_has_the_fields_parameters(roberta: Roberta) -> None:
    assert sum(p.numel() for p in roberta.module.parameters()) == 124_645_632
    assert not roberta.module.training
    assert not any(p.requires_grad for p in roberta.module.parameters())


def test_a_sentence_does_not_notice_its_batch(roberta: Roberta) -> None:
    for sentence, together in zip(SENTENCES, roberta.encode(SENTENCES), strict=True):
        (alone,) = roberta.encode([sentence])
        assert alone.shape == together.shape == (len(roberta.tokenize([sentence])[0][0]), 768)
        assert together.dtype == np.float32
        np.testing.assert_allclose(together, alone, atol=2e-5)


def test_words_change_with_their_context_in_roberta(roberta: Roberta) -> None:
    first, second = roberta.encode(["red man", "red car"])
    assert np.abs(first[1] - second[1]).max() > 1e-3


def test_a_sentence_that_is_too_long_is_cut_with_a_warning(roberta: Roberta, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ids, _ = roberta.tokenize(["word " * 700])
    assert ids.shape == (1, 512)
    assert ids[0, -1] == 2
    assert "512 tokens" in caplog.text


def test_random_roberta_follows_its_seed_and_leaves_the_callers_random_state_alone(
    roberta: Roberta, tokenizer: str
) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = build_text_encoder("roberta-base", "random", tokenizer)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.weights_sha256 == roberta.weights_sha256
    assert np.array_equal(again.encode(SENTENCES[:1])[0], roberta.encode(SENTENCES[:1])[0])


def test_roberta_loads_a_file_of_tubedetrs_names(roberta: Roberta, tokenizer: str, tmp_path: Path) -> None:
    state = {f"transformer.text_encoder.{k}": v for k, v in roberta.module.state_dict().items()}
    state["transformer.text_encoder.embeddings.position_ids"] = torch.arange(514)[None]
    torch.save({"model": {**state, "bbox_embed.weight": torch.ones(1)}}, tmp_path / "tubedetr.pth")
    loaded = build_text_encoder("roberta-base", str(tmp_path / "tubedetr.pth"), tokenizer)
    assert loaded.weights_sha256 == roberta.weights_sha256


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
