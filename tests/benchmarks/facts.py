"""What a recipe says of the paper's encoders, and token features of no encoder."""

from __future__ import annotations

import numpy as np

from stvg.cache.index import Cache
from stvg.cache.schema import Level, Text, Visual
from stvg.cache.texts import PART_ROWS, sentence_hashes, text_key

LEVELS = (Level("c3", 512, 8), Level("c4", 1024, 16), Level("c5", 2048, 32))
VISUAL = Visual("resnet101", "0", LEVELS, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TEXT = Text("roberta-base", "0", 768)
SMALL = Visual("tiny", "0", tuple(Level(level.name, 8, level.stride) for level in LEVELS), (0.5,) * 3, (0.25,) * 3)


def write_tokens(cache: Cache, tokens: int) -> None:
    """As many tokens for every sentence of a cache."""
    sentences = cache.samples.sentences()
    for start in range(0, len(sentences), PART_ROWS):
        hashes = sentence_hashes(sentences[start : start + PART_ROWS])
        offsets = np.arange(len(hashes) + 1, dtype=np.int64) * tokens
        hidden = np.random.default_rng(start).standard_normal((offsets[-1], cache.recipe.text.width), np.float32)
        with cache.store.writer(text_key(hashes)) as unit:
            for name, values in {"hashes": hashes, "offsets": offsets, "hidden": hidden.astype(np.float16)}.items():
                unit.add(name, values.shape, values.dtype)
                unit.append(name, values)
            unit.commit({"fingerprint": cache.recipe.fingerprint})
