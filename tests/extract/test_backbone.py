from __future__ import annotations

import argparse
import hashlib
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet101
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FrozenBatchNorm2d

from stvg.cache.view import View
from stvg.errors import CheckpointError, UsageError
from stvg.extract.encoders.backbone import Backbone, build_backbone
from stvg.extract.encoders.resnet import FrozenNorm, ResNet101, stage
from stvg.extract.transforms import apply_view
from stvg.extract.video.decode import read_frames
from stvg.weights import load_exactly, random_values, read_state_dict, state_sha256

LEVELS = ("c3", "c4", "c5")


@pytest.fixture(scope="module")
def resnet() -> Backbone:
    return build_backbone("resnet101", "random", seed=3)


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return build_backbone("tiny")


@pytest.fixture(scope="module")
def plain(resnet: Backbone) -> dict[str, torch.Tensor]:
    """The same weights as torchvision publishes them: with a classifier and batch counters."""
    weights = resnet101(weights=None).state_dict()
    return {**weights, **resnet.encoder.body.state_dict()}


@torch.inference_mode()
def levels(backbone: Backbone, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return backbone(pixels)


def test_resnet101_has_the_fields_parameters(resnet: Backbone) -> None:
    assert sum(p.numel() for p in resnet.parameters()) == 42_394_816
    body = resnet.encoder.body
    stem = [p.numel() for part in (body.conv1, body.layer1) for p in part.parameters()]
    assert sum(stem) == 222_400
    assert not resnet.training
    assert not any(p.requires_grad for p in resnet.parameters())


@pytest.mark.parametrize(
    ("size", "cells"), [((210, 373), [(27, 47), (14, 24), (7, 12)]), ((64, 33), [(8, 5), (4, 3), (2, 2)])]
)
def test_resnet101_levels_halve_upwards(resnet: Backbone, size: tuple[int, int], cells: list[tuple[int, int]]) -> None:
    found = levels(resnet, torch.zeros(1, 3, *size))
    assert [tuple(found[k].shape) for k in LEVELS] == [
        (1, level.channels, *cell) for level, cell in zip(resnet.levels, cells, strict=True)
    ]


def test_resnet101_equals_torchvisions_own(resnet: Backbone, plain: dict[str, torch.Tensor]) -> None:
    reference = resnet101(weights=None).eval()
    reference.load_state_dict(plain)
    names = dict(zip(("layer2", "layer3", "layer4"), LEVELS, strict=True))
    pixels = torch.randn(1, 3, 60, 75, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = create_feature_extractor(reference, names)(pixels)
    found = levels(resnet, pixels)
    for level in LEVELS:
        torch.testing.assert_close(found[level], expected[level], atol=1e-4, rtol=1e-4)


def test_frozen_batch_norm_equals_the_recorded_one(shared: Path, resnet: Backbone) -> None:
    golden = np.load(shared / "golden/encodings.npz")
    norm = type(resnet.encoder.body.bn1)(6)
    norm.load_state_dict({k: torch.from_numpy(golden[f"frozen_bn.{k}"]) for k in norm.state_dict()})
    assert len(norm.state_dict()) == 4
    assert not list(norm.parameters())
    np.testing.assert_allclose(norm(torch.from_numpy(golden["frozen_bn.x"])), golden["frozen_bn.y"], rtol=1e-5)


def test_folded_norms_give_the_same_features(plain: dict[str, torch.Tensor]) -> None:
    rng = torch.Generator().manual_seed(0)
    trained = {k: v for k, v in plain.items() if k.split(".")[0] != "fc" and not k.endswith("num_batches_tracked")}
    for name, value in trained.items():
        if value.dim() == 1:  # norms as training leaves them, not as they are born
            low, high = (0.5, 1.5) if name.endswith(("running_var", "weight")) else (-0.2, 0.2)
            trained[name] = torch.rand(value.shape, generator=rng) * (high - low) + low
    backbone = ResNet101()
    load_exactly(backbone.body, trained, Path("trained"))
    folded = backbone.eval().folded()
    assert not [m for m in folded.modules() if isinstance(m, FrozenNorm)]
    assert len([m for m in backbone.modules() if isinstance(m, FrozenNorm)]) == 104
    pixels = torch.rand(2, 3, 75, 64, generator=rng)
    with torch.inference_mode():
        for level, expected in backbone(pixels).items():
            torch.testing.assert_close(folded(pixels)[level], expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_a_stage_that_trains_keeps_every_second_output_and_has_the_gradients_of_one_that_keeps_all(
    resnet: Backbone,
) -> None:
    blocks = deepcopy(resnet.encoder.body.layer3).requires_grad_(True)
    x = torch.rand(1, 512, 8, 6, generator=torch.Generator().manual_seed(0))
    outputs, gradients = [], []
    for run in (blocks, partial(stage, blocks)):
        kept: dict[int, torch.Tensor] = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):  # noqa: B023
            found = run(x)
        blocks.zero_grad()
        found.square().sum().backward()
        outputs.append(sum(t.shape[1:] == (1024, 4, 3) for t in kept.values()))
        gradients.append([found, *(p.grad for p in blocks.parameters())])
    assert outputs == [23, 12]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_frozen_norms_are_torchvisions_in_float32_and_leave_half_precision_as_it_is() -> None:
    """Promoted activations would be kept in float32 for the backward pass, and cast again by every convolution."""
    ours, theirs = FrozenNorm(8), FrozenBatchNorm2d(8)
    rng = torch.Generator().manual_seed(0)
    state = {k: 0.5 + torch.rand(8, generator=rng) for k in ours.state_dict()}
    for norm in (ours, theirs):
        norm.load_state_dict(state)
    x = torch.randn(2, 8, 5, 4, generator=rng)
    assert torch.equal(ours(x), theirs(x))
    half = ours(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), theirs(x), rtol=0.02, atol=0.03)


@pytest.mark.parametrize("form", ["plain.pth", "plain.safetensors", "mdetr.pth"])
def test_weights_load_from_every_form_and_hash_alike(
    form: str, resnet: Backbone, plain: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    if form == "plain.safetensors":
        save_file(plain, tmp_path / form)
    elif form == "plain.pth":
        torch.save({"state_dict": plain}, tmp_path / form)
    else:
        bare = {k: v for k, v in plain.items() if not k.startswith("fc.")}
        torch.save(
            {"model": {f"backbone.0.body.{k}": v for k, v in bare.items()} | {"x": torch.ones(1)}}, tmp_path / form
        )
    assert build_backbone("resnet101", tmp_path / form).sha256 == resnet.sha256


def test_weights_that_do_not_fit_are_listed() -> None:
    layer = torch.nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match="does not fit Linear") as caught:
        load_exactly(layer, {"weight": torch.ones(2, 4), "gain": torch.ones(1)}, "some file")
    facts = caught.value.facts
    assert (facts["missing"], facts["unexpected"]) == ("bias", "gain")
    assert facts["misshapen"] == "weight (2, 4) instead of (2, 3)"


def test_a_git_lfs_pointer_is_called_one(shared: Path) -> None:
    pointer = shared / "real" / "nasty" / "corrupt" / "lfs_pointer_resnet18-5c106cde.pth"
    with pytest.raises(CheckpointError, match="git-lfs pointer"):
        build_backbone("resnet101", pointer)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_truncated_weights_are_refused(name: str, keep: float, tmp_path: Path) -> None:
    path = tmp_path / name
    tensors = {"a": torch.ones(300)}
    if path.suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        read_state_dict(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.pth").touch()
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        read_state_dict(tmp_path / "empty.pth")


def test_options_stored_beside_the_weights_do_not_stop_them_from_loading(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(2)}, "args": argparse.Namespace(lr=1e-4)}, tmp_path / "mdetr.pth")
    assert torch.equal(read_state_dict(tmp_path / "mdetr.pth")["a"], torch.ones(2))


def test_a_pickle_that_runs_code_is_refused_without_running_it(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"a": Touch()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        read_state_dict(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_the_hash_sees_values_names_types_and_shapes_but_not_the_file_format(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 4), "a": torch.ones(()), "half": torch.ones(3, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "x.safetensors")
    torch.save(dict(reversed(tensors.items())), tmp_path / "x.pth")
    same = [tensors, read_state_dict(tmp_path / "x.safetensors"), read_state_dict(tmp_path / "x.pth")]
    assert len({state_sha256(t) for t in same}) == 1
    others = [
        {**tensors, "b": tensors["b"] + 1e-6},
        {**tensors, "b": tensors["b"].T.contiguous()},
        {**tensors, "half": torch.ones(3, dtype=torch.float16)},
        {("c" if k == "b" else k): v for k, v in tensors.items()},
    ]
    assert len({state_sha256(t) for t in [tensors, *others]}) == 5


def test_without_weights_the_user_learns_where_they_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="no weights for resnet101") as caught:
        build_backbone("resnet101")
    assert str(tmp_path) in caught.value.facts["expected"]
    assert caught.value.facts["effect"] == "nothing is downloaded"


def test_an_unknown_backbone_is_refused_with_a_guess() -> None:
    with pytest.raises(UsageError, match="no backbone 'resnet10'") as caught:
        build_backbone("resnet10")
    assert "resnet101" in caught.value.facts["hint"]


def test_random_resnet_features_of_real_frames_suit_fp16_and_tell_frames_apart(resnet: Backbone, shared: Path) -> None:
    path = shared / "real" / "nasty" / "mpeg4_bag.avi"
    (frames,) = read_frames(path, np.array([0, 100, 190]), width=480, height=360)
    pixels = apply_view(frames, View.evaluation(480, 360, 224, 373), resnet.mean, resnet.std)
    for level, maps in levels(resnet, pixels).items():
        assert maps.abs().max() < 1000, level
        assert 0.5 < maps.std() < 5, level
        for i, j in ((0, 1), (1, 2)):
            assert (maps[i] - maps[j]).norm() > 0.1 * maps[i].norm(), level
            apart = torch.nn.functional.cosine_similarity(*(maps[k].flatten(1).mean(1) for k in (i, j)), dim=0)
            assert apart < 0.99999, level


def test_random_values_are_the_same_on_every_machine() -> None:
    found = random_values((1000, 50), 7, "layer1.0.conv1.weight")
    assert hashlib.sha256(found.numpy().tobytes()).hexdigest()[:16] == "be2d707ad35f12de"
    assert abs(float(found.mean())) < 0.02
    assert abs(float(found.var()) - 1) < 0.02
    assert not torch.equal(found, random_values((1000, 50), 7, "layer1.0.conv2.weight"))


def test_random_weights_follow_their_seed(resnet: Backbone, tiny: Backbone) -> None:
    assert build_backbone("resnet101", "random", seed=3).sha256 == resnet.sha256
    assert build_backbone("tiny", "random").sha256 == tiny.sha256
    assert build_backbone("tiny", seed=1).sha256 != tiny.sha256


def test_tiny_encodes_frames_alike_alone_and_in_a_batch(tiny: Backbone) -> None:
    pixels = torch.randn(3, 3, 50, 70, generator=torch.Generator().manual_seed(1))
    together = levels(tiny, pixels)
    alone = [levels(tiny, frame[None]) for frame in pixels]
    for level in LEVELS:
        torch.testing.assert_close(together[level], torch.cat([a[level] for a in alone]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(96, 128), (97, 131), (33, 17), (1, 1)])
def test_tiny_levels_round_their_sizes_up(tiny: Backbone, size: tuple[int, int]) -> None:
    found = levels(tiny, torch.randn(2, 3, *size))
    for level in tiny.levels:
        cells = (-(-size[0] // level.stride), -(-size[1] // level.stride))
        assert found[level.name].shape == (2, level.channels, *cells)
        assert found[level.name].isfinite().all()


def scenes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three discs or squares on grey noise: frames (n, 96, 128, 3), colour maps (n, 4, 96, 128), corners (n, 4, 4)."""
    draw = np.random.default_rng(seed)
    frames = draw.integers(90, 150, (n, 96, 128, 3), dtype=np.uint8)
    where = np.zeros((n, 4, 96, 128), bool)
    boxes = np.full((n, 4, 4), np.nan)
    paint = np.array([[210, 40, 40], [40, 180, 60], [50, 70, 220], [225, 210, 50]], np.uint8)
    y, x = np.mgrid[:96, :128]
    for i in range(n):
        for colour in draw.permutation(4)[:3]:
            r, cx, cy = draw.integers(8, 18), draw.integers(18, 110), draw.integers(18, 78)
            round_ = draw.random() < 0.5
            inside = (np.hypot(x - cx, y - cy) if round_ else np.maximum(abs(x - cx), abs(y - cy))) <= r
            frames[i][inside] = paint[colour] + draw.integers(-12, 12, (inside.sum(), 3))
            where[i, :, inside] = False
            where[i, colour, inside] = True
        for colour in range(4):
            ys, xs = np.nonzero(where[i, colour])
            if len(ys) > 60:
                boxes[i, colour] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    return frames, where, boxes


def probe_inputs(tiny: Backbone, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frames, where, boxes = scenes(n, seed)
    c5 = levels(tiny, apply_view(frames, View(128, 96, 128, 96), tiny.mean, tiny.std))["c5"]
    cells = c5.permute(0, 2, 3, 1).reshape(-1, c5.shape[1]).numpy()
    filled = where.reshape(n, 4, 6, 16, 8, 16).mean((3, 5)).transpose(0, 2, 3, 1).reshape(-1, 4)
    return np.hstack([cells, np.ones((len(cells), 1))]).astype(float), filled, boxes


def test_a_linear_probe_reads_colour_and_place_within_a_cell_from_tiny_c5(tiny: Backbone) -> None:
    x, filled, boxes = probe_inputs(tiny, 150, 0)
    x_test, filled_test, boxes_test = probe_inputs(tiny, 50, 1)
    weights = np.linalg.lstsq(x, filled, rcond=None)[0]
    residual = ((x_test @ weights - filled_test) ** 2).sum() / ((filled_test - filled.mean(0)) ** 2).sum()
    assert 1 - residual > 0.85  # share of each of four colours in the cell

    def edges(of: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The left edge within the cell in which a box begins, on the row through its middle."""
        rows, offsets = [], []
        for i, colour in zip(*np.nonzero(np.isfinite(of[..., 0])), strict=True):
            x1, y1, _, y2 = of[i, colour]
            column, row = int(x1) // 16, int((y1 + y2) / 2) // 16
            cell = (i * 6 + row) * 8 + column
            if colour == 0 and shares[cell, 0] > 0.02:
                rows.append(cell)
                offsets.append(x1 - column * 16)
        return np.array(rows), np.array(offsets)

    rows, offsets = edges(boxes, filled)
    rows_test, offsets_test = edges(boxes_test, filled_test)
    ridge = x[rows].T @ x[rows] + 0.1 * np.eye(x.shape[1])
    found = x_test[rows_test] @ np.linalg.solve(ridge, x[rows].T @ offsets)
    assert np.abs(found - offsets_test).mean() < 2.5  # pixels of a 16-pixel cell; guessing the mean gives about 4
