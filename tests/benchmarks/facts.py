"""What a recipe says of the paper's encoders."""

from __future__ import annotations

from stvg.cache.schema import Level, Text, Visual

LEVELS = (Level("c3", 512, 8), Level("c4", 1024, 16), Level("c5", 2048, 32))
VISUAL = Visual("resnet101", "0", LEVELS, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TEXT = Text("roberta-base", "0", 768)
SMALL = Visual("tiny", "0", tuple(Level(level.name, 8, level.stride) for level in LEVELS), (0.5,) * 3, (0.25,) * 3)
