"""Write token features of sentences. Each sentence is encoded once for all annotation sets."""

from __future__ import annotations

import logging

import numpy as np

from ..cache.index import Cache
from ..cache.stores.quantise import FeatureWriter
from ..cache.texts import PART_ROWS, sentence_hashes, text_key
from .encoders.text import TextEncoder
from .lengths import notice_of_cuts
from .work import Options

log = logging.getLogger(__name__)


def write_text(cache: Cache, text: TextEncoder, options: Options) -> int:
    """Write the token features that the cache's annotation set needs and the cache lacks, of ``options.part`` only.

    Returns how many were computed. All sentences, stored or not, are divided into runs of `PART_ROWS`, so that every
    extractor finds its own runs.
    """
    table = cache.samples
    if cache.recipe.bare:
        return 0
    if options.part.index == 0 and (notice := notice_of_cuts(table, text.tokenizer)):
        log.warning("%s", notice)
    sentences, computed = table.sentences(), 0
    runs = [sentences[start : start + PART_ROWS] for start in range(0, len(sentences), PART_ROWS)]
    for run in runs[options.part.index :: options.part.count]:
        if missing := cache.texts.missing(run):
            write_sentences(cache, text, missing, options.text_batch)
            computed += len(missing)
    return computed


def write_sentences(cache: Cache, text: TextEncoder, sentences: list[str], batch: int) -> None:
    """Encode sentences and write them as one unit."""
    features = [f for i in range(0, len(sentences), batch) for f in text.encode(sentences[i : i + batch])]
    offsets = np.cumsum([0, *map(len, features)], dtype=np.int64)
    hashes = sentence_hashes(sentences)
    with cache.store.writer(text_key(hashes)) as unit:
        writer = FeatureWriter(unit, cache.recipe.dtype)
        unit.add("hashes", hashes.shape, hashes.dtype)
        unit.add("offsets", offsets.shape, offsets.dtype)
        writer.add("hidden", (int(offsets[-1]), text.width), "token")
        unit.append("hashes", hashes)
        unit.append("offsets", offsets)
        for sentence, hidden in zip(sentences, features, strict=True):
            writer.append("hidden", hidden, f"text features of {sentence!r}")
        unit.commit({"fingerprint": cache.recipe.fingerprint})
