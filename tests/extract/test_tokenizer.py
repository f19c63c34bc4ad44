"""RoBERTa's tokenizer: one hash for one behaviour, whichever files it comes from; what behaves otherwise is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest

from stvg.cache.schema import Sample, Video
from stvg.errors import CheckpointError, UsageError
from stvg.extract.encoders.text import build_text_encoder
from stvg.extract.encoders.tokenizer import TokenReader, load_tokenizer, tokenizer_sha256
from stvg.extract.lengths import notice_of_cuts, notice_of_long_ones

from .folders import text_folder


@pytest.fixture(scope="module")
def real(shared: Path) -> Path:
    return shared / "real" / "roberta-base-tokenizer"


@pytest.fixture(scope="module")
def tokenizer(real: Path) -> Any:
    return load_tokenizer(str(real))


@pytest.fixture(scope="module")
def written(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tokenizer.json says when the library writes it."""
    folder = tmp_path_factory.mktemp("written")
    tokenizer.save_pretrained(folder)
    return json.loads((folder / "tokenizer.json").read_text())


Change = Callable[[dict[str, Any]], object]


def folder_of(written: dict[str, Any], folder: Path, change: Change | None = None, **config: object) -> str:
    content = json.loads(json.dumps(written))
    if change:
        change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return str(folder)


def as_published(content: dict[str, Any]) -> None:
    """The flags and fields in which the published tokenizer.json differs from what the library writes today."""
    for token in content["added_tokens"]:
        token["normalized"] = True
        token["lstrip"] = token["content"] == "<mask>"
    content["truncation"] = {"max_length": 512, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    content["pre_tokenizer"]["trim_offsets"] = False


@pytest.mark.parametrize("change", [None, as_published])
def test_both_layouts_of_one_tokenizer_have_one_hash(change, tokenizer, written, tmp_path):
    assert tokenizer_sha256(load_tokenizer(folder_of(written, tmp_path, change))) == tokenizer_sha256(tokenizer)


def test_the_hash_does_not_depend_on_what_was_tokenised_before(tokenizer):
    before = tokenizer_sha256(tokenizer)
    tokenizer(["a", "b c"], padding="longest", truncation=True, max_length=512)
    assert tokenizer_sha256(tokenizer) == before


OTHERS: dict[str, tuple[Change | None, dict[str, object]]] = {
    "merges": (lambda c: c["model"].update(merges=c["model"]["merges"][:100]), {}),
    "normaliser": (lambda c: c.update(normalizer={"type": "Lowercase"}), {}),
    "prefix space": (None, {"add_prefix_space": True}),
    "prefix space in the file": (lambda c: c["pre_tokenizer"].update(add_prefix_space=True), {}),
    "padding side": (None, {"padding_side": "left"}),
    "truncation side": (None, {"truncation_side": "left"}),
    "marks": (lambda c: c.update(post_processor=None), {}),
    "accents": (lambda c: c.update(normalizer={"type": "NFD"}), {}),
    "stripping": (lambda c: c.update(normalizer={"type": "Strip", "strip_left": True, "strip_right": True}), {}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_tokenizer_that_makes_other_ids_is_refused_by_name(name, written, tmp_path):
    change, config = OTHERS[name]
    with pytest.raises(CheckpointError, match="is not RoBERTa's") as refused:
        load_tokenizer(folder_of(written, tmp_path, change, **config))
    assert refused.value.facts["expected"] != refused.value.facts["found"]


def test_merges_that_are_empty_are_refused(real, tmp_path):
    (tmp_path / "vocab.json").symlink_to(real / "vocab.json")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(CheckpointError, match="is not RoBERTa's") as refused:
        load_tokenizer(str(tmp_path))
    assert "[0, 31414, 232, 2]" in refused.value.facts["expected"]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["model"].update(merges=c["model"]["merges"][:-1]),
        lambda c: c["added_tokens"].insert(4, {**c["added_tokens"][3], "id": 5715, "content": "ood", "special": False}),
    ],
    ids=["one merge", "an added token"],
)
def test_what_known_sentences_do_not_show_is_another_fingerprint(change, tokenizer, written, tmp_path):
    assert tokenizer_sha256(load_tokenizer(folder_of(written, tmp_path, change))) != tokenizer_sha256(tokenizer)


@pytest.mark.parametrize("repository", ["roberta-base", "FacebookAI/roberta-base"])
@pytest.mark.parametrize("layout", ["tokenizer.json", "vocab.json"])
def test_the_hub_caches_tokenizer_is_found_in_either_layout(layout, repository, real, written, tmp_path, monkeypatch):
    snapshot = tmp_path / f"models--{repository.replace('/', '--')}/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="no RoBERTa tokenizer"):
        load_tokenizer(None)
    if layout == "tokenizer.json":
        folder_of(written, snapshot)
    else:
        for name in ("vocab.json", "merges.txt"):
            (snapshot / name).symlink_to(real / name)
    assert load_tokenizer(None)("Hello world")["input_ids"] == [0, 31414, 232, 2]


# --- sentences that are longer than it reads -----------------------------------------------------------------------------


def asked(name: str, sentence: str) -> Sample:
    video = Video("v", "v.mp4", 32, 32, 25.0, 10)
    return Sample(name, video, sentence, "all", "train", (0, 10), (0, 1), np.zeros((1, 4)), "t")


def reader(tokenizer) -> TokenReader:
    return TokenReader("roberta-base", tokenizer, 512)


LONG = "moves left and then right, " * 200
SAMPLES = [
    asked("first", LONG + "and stops"),
    asked("second", LONG + "and jumps"),
    asked("third", "红" * 400),
    asked("again", LONG + "and stops"),
    asked("short", "a man walks"),
    asked("many letters, few tokens", "international " * 40),
]


def test_sentences_that_are_cut_are_named_with_their_tokens_and_their_doubles(tokenizer):
    notice = notice_of_cuts(SAMPLES, reader(tokenizer))
    counts = [len(tokenizer(s.sentence)["input_ids"]) for s in SAMPLES]
    assert min(counts[:4]) > 512 > max(counts[4:])
    head, *lines = notice.splitlines()
    assert head.startswith("4 sentences are cut after 512 tokens")
    assert "equal features" in head
    for line, sample, count in zip(lines, SAMPLES, counts, strict=False):
        assert f"sample {sample.sample_id}: {count:,} tokens" in line
    assert [("read like that of sample first" in line) for line in lines] == [False, True, False, False]


def test_512_tokens_are_read_and_513_are_cut(tokenizer):
    assert notice_of_cuts([asked("whole", "word" + " word" * 509)], reader(tokenizer)) is None
    assert "513 tokens" in notice_of_cuts([asked("cut", "word" + " word" * 510)], reader(tokenizer))


def test_a_long_list_of_cut_sentences_is_shortened(tokenizer):
    notice = notice_of_cuts([asked(str(i), f"{LONG} {i}") for i in range(25)], reader(tokenizer))
    assert len(notice.splitlines()) == 12
    assert notice.endswith("and 15 more")


def test_without_a_tokenizer_only_what_is_certain_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    notice = notice_of_long_ones(SAMPLES, "roberta-base", None)
    assert "sample first: at least 1,004 tokens" in notice
    assert "sample third: at least 3 tokens, at most 1,202" in notice
    assert "short" not in notice
    assert "--tokenizer" in notice
    assert notice_of_long_ones(SAMPLES[4:5], "roberta-base", None) is None


def test_an_encoder_that_reads_any_length_cuts_nothing():
    assert notice_of_cuts(SAMPLES, build_text_encoder("tiny").tokenizer) is None


def test_sentences_are_measured_by_the_encoder_that_will_read_them(tmp_path):
    name = text_folder(tmp_path / "bert", "bert")  # reads 12 tokens, a letter each
    notice = notice_of_long_ones([asked("whole", "abcdefghab"), asked("cut", "abcdefghabc")], name, None)
    assert notice.splitlines()[0].startswith("1 sentence is cut after 12 tokens, all that hf:bert reads")
    assert "sample cut: 13 tokens" in notice
    assert notice_of_long_ones(SAMPLES, "tiny", None) is None
    with pytest.raises(UsageError, match="no text encoder 'robert'"):
        notice_of_long_ones(SAMPLES, "robert", None)
