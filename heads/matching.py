"""Tube sequence matching (eq 8): which candidate tube answers for the annotated one."""

from __future__ import annotations

import torch
from torch import Tensor

from .boxes import generalised_iou

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
BOX_COST, GIOU_COST, LABEL_COST = 5.0, 2.0, 0.2


@torch.no_grad()
def match_tubes(pred_boxes: Tensor, pred_score: Tensor | None, target: Tensor, in_moment: Tensor) -> Tensor:
    """Choose, for every sample, the candidate tube closest to the annotated one.

    One sentence names one tube, so the Hungarian assignment is an argmin over candidates. Costs are means over the
    moment's frames: 5 · L1 + 2 · (1 - GIoU) + 0.2 · focal cost of calling the candidate the target.

    Shapes (B samples, N candidate tubes, T slots):
        pred_boxes (B, N, T, 4) cxcywh fractions
        pred_score (B, N, T) logits, or None to match on boxes alone
        target     (B, T, 4) cxcywh fractions; read only where ``in_moment``
        in_moment  (B, T) bool, True on real slots inside the annotated moment
    Returns (B,) int64. No gradient flows through the choice. Every sample must have a slot inside, as in `Targets`.
    """
    boxes = pred_boxes.float()
    wanted = target[:, None].expand_as(boxes)
    cost = BOX_COST * (boxes - wanted).abs().sum(-1) + GIOU_COST * (1 - generalised_iou(boxes, wanted))
    if pred_score is not None:
        score = pred_score.float()
        cost = cost + LABEL_COST * FOCAL_ALPHA * (1 - score.sigmoid()) ** FOCAL_GAMMA * -torch.nn.functional.logsigmoid(
            score
        )
    # Not `cost * mask`: 0 · nan is nan.
    total = cost.masked_fill(~in_moment[:, None], 0).sum(-1)  # (B, N)
    return (total / in_moment.sum(-1, keepdim=True)).argmin(-1)
