"""Names of tensors in published checkpoints, and the rules that rename or drop them."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = {
    "FSM": r"class_embeding\.|transformer\.dual_attn_bloack_",
    "TubeDETR": r"sted_embed\.",
    "STCAT": r"(.+\.)?ground_decoder\.template_generator\.",
    "CG-STVG": r"(.+\.)?ground_(decoder|encoder)\.",
    "MDETR": r"transformer\.(resizer|decoder\.layers\.\d+\.cross_attn_image)\.",
    "DETR": r"transformer\.decoder\.",
    "ResNet-101": r"(backbone\.0\.body\.)?layer4\.",
    "RoBERTa": r"(roberta\.|transformer\.text_encoder\.)?embeddings\.word_embeddings\.",
}
"""Patterns of tensor names that identify each kind of checkpoint. The first match applies."""
OTHER_HEADS = {
    "CG-STVG": "a head of another kind; only the encoders fit here",
    "DETR": "a head that reads no sentences; only the backbone fits here",
}
"""Kinds of which only the encoders are imported, with the reason."""
OWN = r"(ema\.|model\.)?head\.(decoder|encoder)\."
"""Tensor names of a checkpoint of `stvg train-head`."""
ROOT = "transformer.decoder.norm.weight"
"""The tensor by which a model is located in a file."""
MATCHING = {
    "query": "query",
    "f_key": "self_key",
    "f_value": "self_value",
    "t_key": "cross_key",
    "t_value": "cross_value",
    "s_value": "self_out",
    "x_value": "cross_out",
    "s_score": "gates.cross",
    "x_score": "gates.self",
    "outputs": "out",
}
"""Published linear layers of frame-level matching → names here. The published code names a score after its input, this
code names a gate after its output. The layers of eq 3 are not in any file: the published code draws them at random in
every forward pass."""


@dataclass(frozen=True)
class Rule:
    """What to do with tensors whose whole name matches ``pattern``: a part and the name in it, or None and the reason
    to drop it."""

    pattern: str
    part: str | None
    name: str
    same_as: str | None = None
    """The published name of the tensor that this one must equal."""


def matching_rules() -> list[Rule]:
    """Rules for the linear layers of frame-level matching, which are 1x1 convolutions in the published code."""
    return [
        Rule(
            rf"transformer\.dual_attn_bloack_{theirs}\.(?:.+\.)?{layer}(?:\.conv1d)?\.(weight|bias)",
            "head",
            rf"fusion.{ours}.{name}.\1",
        )
        for theirs, ours in (("seg", "video_branch"), ("word", "text_branch"))
        for layer, name in MATCHING.items()
    ]


ENCODER_RULES = [
    Rule(r"(?:.+\.)?(?:num_batches_tracked|n_averaged)", None, "a counter"),
    Rule(r"(?:backbone\.0\.body\.)?fc\.(?:weight|bias)", None, "ImageNet's classifier"),
    Rule(r"backbone\.0\.body\.(.+)", "backbone", r"\1"),
    Rule(r"((?:conv1|bn1|layer[1-4])\..+)", "backbone", r"\1"),
    Rule(
        r"(?:transformer\.text_encoder\.|roberta\.)?embeddings\.position_ids",
        None,
        "positions counted up, not a weight",
    ),
    Rule(r"(?:transformer\.text_encoder\.)?lm_head\..+", None, "RoBERTa's language model head"),
    Rule(r"transformer\.text_encoder\.(.+)", "text", r"\1"),
    Rule(r"(?:roberta\.)?((?:embeddings|encoder|pooler)\..+)", "text", r"\1"),
]
HEAD_RULES = [
    Rule(r"transformer\.time_embed\.te", None, "the sine table of time, rebuilt here"),
    Rule(r"transformer\.(resizer\.(?:fc|layer_norm)\..+)", "head", r"\1"),
    Rule(r"transformer\.((?:encoder|decoder)\.layers\.\d+\..+|decoder\.norm\..+)", "head", r"\1"),
    Rule(r"transformer\.(fast_(?:encoder|residual)\..+)", "head", r"\1"),
    Rule(r"((?:bbox_embed|sted_embed)\.layers\.\d+\..+|input_proj\..+|query_embed\.weight)", "head", r"\1"),
    # only in MDETR
    Rule(r"class_embed\..+", None, "MDETR's classes of words; nothing here predicts words"),
    Rule(r"contrastive_align_projection_(?:image|text)\..+", None, "MDETR's alignment of objects and words"),
    # only in the FSM authors' checkpoints
    Rule(r"input_proj_pre\.0\.0\.(.+)", "head", r"level_proj.c3.conv.\1"),
    Rule(r"input_proj_pre\.0\.1\.(.+)", "head", r"level_proj.c3.norm.\1"),
    Rule(r"input_proj_pre\.1\.0\.(.+)", "head", r"level_proj.c4.conv.\1"),
    Rule(r"input_proj_pre\.1\.1\.(.+)", "head", r"level_proj.c4.norm.\1"),
    Rule(r"class_embeding\.(.+)", "head", r"class_embed.\1"),
    Rule(r"bbox_query_embed\.weight", "head", "anchor_query.weight"),
    Rule(r"hsbbox_embed\..+", None, "a second box head that the published code never uses"),
    Rule(r"transformer\.decoder\.bbox_layers\..+", None, "the decoder's layers under a second name"),
    Rule(r"transformer\.decoder\.temp\..+", None, "the start and end head under a second name"),
    Rule(r"transformer\.cross_tweight\..+", None, "weights of frames that the published code never trains"),
    *matching_rules(),
    Rule(r"transformer\.dual_attn_bloack_.+", None, "works on layers drawn at random in every pass"),
]
