"""Names of tensors in published STCAT checkpoints, the size of their head, and the tensors taken from an MDETR head."""

from __future__ import annotations

from ...cache.schema import Level
from ...weights import StateDict
from ..model_config import FeatureFacts
from ..published_names import Rule
from .config import STCATConfig

ROOT = "ground_encoder.encoder.frame_cls.weight"
"""The tensor by which a published model is located in a file."""
ANCHOR = "encoder.frame_cls.weight"
"""The tensor by which a head with our names is located in a larger model."""
RULES = [
    Rule(r"ground_(?:encoder\.encoder|decoder)\.time_embed\.te", None, "the sine table of time, rebuilt here"),
    Rule(r"ground_encoder\.fusion\.(?:weight|bias)", None, "a linear layer that the published code never uses"),
    Rule(r"ground_decoder\.decoder\.layers\.\d+\.ca_qtime_proj\.(?:weight|bias)", None, "never used at these settings"),
    Rule(r"ground_decoder\.decoder\.(bbox_embed\..+)", None, "the box head under a second name", same_as=r"\1"),
    Rule(r"text_encoder\.(resizer\.(?:fc|layer_norm)\..+)", "head", r"\1"),
    Rule(r"ground_encoder\.encoder\.((?:spatial_layers|temporal_layers)\.\d+\..+)", "head", r"encoder.\1"),
    Rule(r"ground_encoder\.encoder\.((?:frame_cls|video_cls|local_pos_embed)\.weight)", "head", r"encoder.\1"),
    Rule(r"ground_decoder\.template_generator\.((?:content|gamma|beta|anchor)_proj\..+)", "head", r"template.\1"),
    Rule(
        r"ground_decoder\.decoder\.((?:layers|(?:query_scale|ref_point_head)\.layers)\.\d+\..+|norm\..+)",
        "head",
        r"spatial_decoder.\1",
    ),
    Rule(r"ground_decoder\.temp_decoder\.(layers\.\d+\..+|norm\..+)", "head", r"temporal_decoder.\1"),
    Rule(r"((?:bbox_embed|temp_embed|action_embed)\.layers\.\d+\..+|input_proj\..+)", "head", r"\1"),
]
REQUIRED = (
    *("input_proj", "resizer", "encoder", "template", "spatial_decoder", "temporal_decoder"),
    *("bbox_embed", "temp_embed", "action_embed"),
)
"""The groups of tensors of a complete head."""


def size_of(head: StateDict) -> tuple[STCATConfig, FeatureFacts]:
    """The size of a head, inferred from its tensors. The number of attention heads cannot be inferred; published ones
    have 8."""

    def width(name: str, axis: int, default: int) -> int:
        return head[name].shape[axis] if name in head and head[name].dim() == 2 else default

    def layers(stack: str) -> int:
        at = len(stack.split("."))
        return 1 + max((int(k.split(".")[at]) for k in head if k.startswith(f"{stack}.")), default=0)

    config = STCATConfig(
        d=width(ANCHOR, 1, 256),
        ffn=width("encoder.spatial_layers.0.linear1.weight", 0, 2048),
        encoder_layers=layers("encoder.spatial_layers"),
        decoder_layers=layers("spatial_decoder.layers"),
    )
    channels = width("input_proj.weight", 1, 2048)
    return config, FeatureFacts((Level("last", channels, 32),), width("resizer.fc.weight", 1, 768))


def adopted(head: StateDict) -> StateDict:
    """The tensors that an STCAT head starts from. Of an STCAT head: all. Of a head derived from MDETR's: those that the
    published code takes from MDETR. Its encoder layers become the spatial encoder, its decoder the spatial decoder,
    without attention to memory."""
    if ANCHOR in head:
        return dict(head)
    places = {"encoder.layers.": "encoder.spatial_layers.", "decoder.": "spatial_decoder."}
    found = {k: v for k, v in head.items() if not k.startswith(tuple(places))}
    for theirs, ours in places.items():
        of_place = {k: v for k, v in head.items() if k.startswith(theirs) and ".cross_attn_image." not in k}
        found |= {ours + k.removeprefix(theirs): v for k, v in of_place.items()}
    return found
