"""Tube sequence matching (eq 8): selects the candidate tube that is matched to the annotated one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..boxes import generalised_iou

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
BOX_COST, GIOU_COST, LABEL_COST = 5.0, 2.0, 0.2


@torch.no_grad()
def match_tubes(
    pred_boxes: Tensor,
    pred_score: Tensor | None,
    target: Tensor,
    in_moment: Tensor,
    l1: float = BOX_COST,
    giou: float = GIOU_COST,
    label: float = LABEL_COST,
) -> Tensor:
    """Choose for every sample the candidate tube closest to the annotated one.

    A sentence describes one tube, so the Hungarian assignment is an argmin over candidates. Costs are means over the
    moment's frames: l1 · L1 + giou · (1 - GIoU) + label · focal cost of the candidate's score. The weights are those of
    the losses: an output with loss weight 0 is not trained, and is not compared. Of equal candidates: the first.

    Shapes (B samples, N candidate tubes, T slots):
        pred_boxes (…, B, N, T, 4) cxcywh fractions
        pred_score (…, B, N, T) logits, or None to match on boxes alone
        target     (B, T, 4) cxcywh fractions; read only where ``in_moment``
        in_moment  (B, T) bool, True on real slots inside the annotated moment
    Returns (…, B) int64. No gradient flows through the choice. Every sample must have a slot inside, as in `Targets`.
    """
    boxes = pred_boxes.float()
    wanted = target[:, None].expand_as(boxes)
    cost = boxes.new_zeros(boxes.shape[:-1])
    if l1:
        cost = l1 * (boxes - wanted).abs().sum(-1)
    if giou:
        cost = cost + giou * (1 - generalised_iou(boxes, wanted))
    if label and pred_score is not None:
        score = pred_score.float()
        cost = cost + label * FOCAL_ALPHA * (1 - score.sigmoid()) ** FOCAL_GAMMA * -F.logsigmoid(score)
    # Not `cost * mask`: 0 · nan is nan.
    total = cost.masked_fill(~in_moment[:, None], 0).sum(-1)  # (…, B, N)
    return (total / in_moment.sum(-1, keepdim=True)).argmin(-1)
