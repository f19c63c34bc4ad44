"""What a recipe says of the paper's encoders."""

from __future__ import annotations

from stvg.cache.schema import Level, Text, Visual
from stvg.extract.encoders.resnet import ResNet101

LEVELS = tuple(Level(*facts) for facts in ResNet101.levels)
VISUAL = Visual("resnet101", "0", LEVELS, ResNet101.mean, ResNet101.std)
TEXT = Text("roberta-base", "0", 768)
SMALL = Visual("tiny", "0", tuple(Level(level.name, 8, level.stride) for level in LEVELS), (0.5,) * 3, (0.25,) * 3)
