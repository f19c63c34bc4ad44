"""``fine:NAME``: the last level of an encoder with the cells of the level before it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stvg.errors import EncoderError, UsageError
from stvg.extract.encoders.backbone import build_backbone
from stvg.extract.encoders.combined.fine import refined
from stvg.extract.encoders.contract import Backbone, Origin


class Wide(nn.Module):
    """Two levels of any strides, cheap to compute: means of patches."""

    mean, std = (0.0,) * 3, (1.0,) * 3

    def __init__(self, fine: int, last: int) -> None:
        super().__init__()
        self.levels = (("fine", 3, fine), ("last", 3, last))

    def forward(self, pixels):
        return {name: F.avg_pool2d(pixels, stride, ceil_mode=True) for name, _, stride in self.levels}


def wrapped(encoder):
    return Backbone(encoder, Origin("wide", "made here"))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([(4, 8), (8, 32), (8, 8), (3, 9)]))
def test_the_last_level_keeps_its_values_and_holds_the_level_before_cell_by_cell(height, width, strides):
    base = wrapped(Wide(*strides))
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height * 71 + width))
    plain, found = base(pixels), refined(base)(pixels)
    torch.testing.assert_close(found["fine"], plain["fine"], rtol=0, atol=0)
    torch.testing.assert_close(found["last"][:, :3], plain["last"], rtol=0, atol=0)
    detail = F.pixel_shuffle(found["last"][:, 3:], strides[1] // strides[0])
    rows, columns = plain["fine"].shape[-2:]
    torch.testing.assert_close(detail[..., :rows, :columns], plain["fine"], rtol=0, atol=0)
    assert detail[..., rows:, :].abs().sum() + detail[..., columns:].abs().sum() == 0


def test_levels_that_do_not_divide_are_refused_with_what_was_found():
    with pytest.raises(EncoderError, match="cells divide") as raised:
        refined(wrapped(Wide(6, 16)))
    assert "fine (3 channels, stride 6)" in str(raised.value)


def test_a_name_lacks_its_encoder():
    with pytest.raises(UsageError, match="lacks a name"):
        build_backbone("fine:")


@pytest.mark.parametrize("name", ["tiny", "lite0"])
def test_stages_divide_train_and_extract_as_those_of_the_encoder_itself(name):
    base, fine = (build_backbone(prefix + name, "random" if name != "tiny" else None) for prefix in ("", "fine:"))
    pixels = torch.randn(1, 3, 50, 70, generator=torch.Generator().manual_seed(0))
    whole = fine(pixels)
    before, last = list(whole)[-2:]
    assert fine.has_last_stage == base.has_last_stage
    if fine.has_last_stage:
        torch.testing.assert_close(fine.last_stage(fine.early(pixels)[before]), whole[last], rtol=0, atol=0)
    ready = fine.for_extraction(torch.device("cpu"))(pixels)
    torch.testing.assert_close(ready[last], whole[last], rtol=1e-4, atol=1e-4)
    assert [p.shape for p in fine.trained()] == [p.shape for p in base.trained()]


def test_its_features_are_another_encoders_in_the_recipe():
    base, fine = build_backbone("tiny"), build_backbone("fine:tiny")
    assert (fine.name, fine.sha256 != base.sha256) == ("fine:tiny", True)
    assert build_backbone(fine.name).sha256 == fine.sha256
