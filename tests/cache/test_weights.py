"""Files of weights: whatever they are wrapped in, the same tensors; what is damaged or could be two things is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stvg.errors import CheckpointError
from stvg.weights import load_exactly, read_state_dict, read_weights

PLAIN = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module."])
def test_what_wraps_a_module_is_no_part_of_its_names(prefix, tmp_path):
    found = read_weights(saved(tmp_path / "x.pth", {prefix + k: v for k, v in PLAIN.items()}))
    assert equal(found.tensors, PLAIN)
    assert prefix.split(".")[0] in str(found)


def test_a_wrapper_inside_a_model_is_taken_off_too(tmp_path):
    found = read_state_dict(saved(tmp_path / "x.pth", {"conv._orig_mod.weight": torch.ones(1)}))
    assert list(found) == ["conv.weight"]


OTHER = {k: v + 1 for k, v in PLAIN.items()}


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        ({"ema": PLAIN}, "ema"),
        ({"model": OTHER, "ema": PLAIN, "epoch": 3}, "ema"),
        ({"ema": {"decay": 0.9}, "model": PLAIN}, "model"),
        ({"ema": {"module": PLAIN, "updates": 7}, "model": OTHER}, "ema.module"),
        ({"state_dict": {"state_dict": PLAIN}}, "state_dict.state_dict"),
        ({"model_ema": None, "model": PLAIN}, "model"),
        ({"model_ema": {}, "state_dict_ema": PLAIN, "state_dict": OTHER}, "state_dict_ema"),
        ({"model_state_dict": PLAIN, "optimizer_state_dict": {}}, "model_state_dict"),
    ],
)
def test_the_state_dict_is_found_in_its_entry_averaged_before_plain(content, entry, tmp_path):
    found = read_weights(saved(tmp_path / "x.pth", content))
    assert equal(found.tensors, PLAIN)
    assert found.entry == entry
    assert entry in str(found)


def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path):
    endless: dict[str, Any] = {"epoch": 3}
    endless["model"] = endless
    for content in ({"epoch": 3, "model": [1]}, endless, {}, [1, 2]):
        with pytest.raises(CheckpointError, match="holds no state dict"):
            read_state_dict(saved(tmp_path / "x.pth", content))


def test_two_tensors_that_would_have_one_name_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"have the name conv.weight") as refused:
        read_state_dict(saved(tmp_path / "x.pth", {"conv.weight": torch.ones(1), "module.conv.weight": torch.zeros(1)}))
    assert refused.value.facts["found"] == "conv.weight, module.conv.weight"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_numbers_that_are_none_are_refused_by_the_tensors_name(value, dtype, tmp_path):
    bad = torch.ones(3, 2, dtype=dtype)
    bad[1, 1] = value
    for path in (tmp_path / "x.pth", tmp_path / "x.safetensors"):
        content = {**PLAIN, "norm.weight": bad}
        save_file(content, path) if path.suffix == ".safetensors" else torch.save({"model": content}, path)
        with pytest.raises(CheckpointError, match=r"norm.weight holds numbers that are not finite") as refused:
            read_state_dict(path)
        assert refused.value.facts["found"].startswith("1 of 6 values")


def test_a_number_beyond_float32_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not finite"):
        read_state_dict(saved(tmp_path / "x.pth", {"a": torch.tensor([1e300], dtype=torch.float64)}))


def test_a_tensor_without_numbers_is_refused(tmp_path):
    for tensor in (torch.empty(3, device="meta"), torch.eye(3).to_sparse()):
        with pytest.raises(CheckpointError):
            read_state_dict(saved(tmp_path / "x.pth", {"a": tensor}))


@pytest.mark.parametrize("prefix", ["", "vis_encoder.0.body.", "backbone.0.body.", "model.backbone.", "0.body."])
def test_a_module_is_found_inside_a_larger_model(prefix, tmp_path):
    content = {prefix + k: v for k, v in PLAIN.items()} | {"head.weight": torch.ones(1)} if prefix else PLAIN
    content = content | {f"{prefix}bn.num_batches_tracked": torch.tensor(3)}
    assert equal(read_weights(saved(tmp_path / "x.pth", {"model": content})).beside("conv.weight").tensors, PLAIN)


def test_of_two_modules_the_averaged_one_is_taken_and_otherwise_none(tmp_path):
    two = {f"{p}.net.{k}": v for p, w in (("ema", PLAIN), ("model", OTHER)) for k, v in w.items()}
    assert equal(read_weights(saved(tmp_path / "x.pth", two)).beside("conv.weight").tensors, PLAIN)
    two = {k.replace("ema.", "teacher."): v for k, v in two.items()}
    with pytest.raises(CheckpointError, match="several matching modules") as refused:
        read_weights(saved(tmp_path / "y.pth", two)).beside("conv.weight")
    assert refused.value.facts["found"] == "teacher.net.conv.weight, model.net.conv.weight"


def test_half_precision_loads_and_whole_numbers_do_not(tmp_path):
    layer = torch.nn.Linear(3, 2)
    half = {"weight": PLAIN["conv.weight"].half(), "bias": torch.ones(2, dtype=torch.bfloat16)}
    found = read_weights(saved(tmp_path / "x.pth", half))
    assert "stored as bfloat16 and float16" in str(found)
    load_exactly(layer, found.tensors, found)
    assert layer.weight.dtype == torch.float32
    assert torch.equal(layer.weight, PLAIN["conv.weight"])
    with pytest.raises(CheckpointError, match="does not fit Linear") as refused:
        load_exactly(layer, {"weight": torch.ones(2, 3, dtype=torch.int8), "bias": torch.ones(2)}, "x")
    assert refused.value.facts["numbers"] == "weight torch.int8 instead of torch.float32"


def shards(folder: Path, ending: str = "safetensors") -> Path:
    """Two shards and their index, as transformers writes them."""
    stem = "model" if ending == "safetensors" else "pytorch_model"
    places = {}
    for i, (name, value) in enumerate(PLAIN.items(), 1):
        places[name] = f"{stem}-0000{i}-of-00002.{ending}"
        write = save_file if ending == "safetensors" else torch.save
        write({name: value}, folder / places[name])
    index = folder / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": places}))
    return index


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_are_read_with_their_index_or_their_folder(ending, tmp_path):
    index = shards(tmp_path, ending)
    for place in (index, tmp_path):
        found = read_weights(place)
        assert equal(found.tensors, PLAIN)
        assert found.file == index


def test_a_missing_shard_is_named(tmp_path):
    index = shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="names a shard that is missing") as refused:
        read_state_dict(index)
    assert "model-00002-of-00002.safetensors" in refused.value.facts["expected"]


@pytest.mark.parametrize("place", ["../x.safetensors", "/etc/passwd", "a/../../x", "..", "..\\x", "C:\\x"])
def test_a_shard_outside_the_indexs_folder_is_never_opened(place, tmp_path):
    (tmp_path / "in").mkdir()
    save_file(PLAIN, tmp_path / "x.safetensors")
    index = tmp_path / "in/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv.weight": place}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        read_state_dict(index)


def test_an_index_that_is_none_or_does_not_fit_its_shards_is_refused(tmp_path):
    index = shards(tmp_path)
    places = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**places, "lost.weight": places["conv.bias"]}}))
    with pytest.raises(CheckpointError, match="do not belong together") as refused:
        read_state_dict(index)
    assert refused.value.facts["missing"].startswith("lost.weight")
    for text in ("{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', '{"weight_map": []}'):
        index.write_text(text)
        with pytest.raises(CheckpointError, match="cannot be read as an index"):
            read_state_dict(index)


@pytest.mark.parametrize(
    "content", [b"hello, this is text", b"<html><body>404", b"\x80\x04K", b"PK\x03\x04 cut off", b"\x00" * 99]
)
@pytest.mark.parametrize("name", ["x.pth", "x.bin", "x.safetensors"])
def test_what_is_no_file_of_weights_is_said_in_whole_sentences(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as weights") as refused:
        read_state_dict(tmp_path / name)
    found = refused.value.facts["found"]
    assert len(found.partition("; ")[2].split()) > 2, found
    assert not found.endswith((",", "the", "is")), found


def test_what_a_pickle_holds_beside_tensors_is_named(tmp_path):
    with pytest.raises(CheckpointError) as refused:
        read_state_dict(saved(tmp_path / "x.pth", {"model": torch.nn.Linear(2, 2)}))
    assert refused.value.facts["found"].endswith("it holds more than tensors: torch.nn.modules.linear.Linear")


def test_the_bytes_of_a_file_decide_and_not_its_ending(tmp_path):
    save_file(PLAIN, tmp_path / "x.pth")
    assert equal(read_state_dict(tmp_path / "x.pth"), PLAIN)
    assert equal(read_state_dict(saved(tmp_path / "y.safetensors", PLAIN)), PLAIN)
