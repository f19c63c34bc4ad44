"""Caches with made-up features, for tests of what a cache promises as a whole: no video, no encoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stvg.cache.annotations import AnnotationSet
from stvg.cache.index import Cache
from stvg.cache.schema import Recipe, Sample, Video
from stvg.cache.stores.unit import ROWS
from stvg.cache.texts import sentence_hashes, text_key
from stvg.cache.video_unit import video_key
from stvg.cache.view import View

from ..encoders import levels, text, visual

RECIPE = Recipe(
    visual=visual(levels((8, 16, 600), (8, 16, 32)), "tiny"),
    text=text(64, "tiny"),
    resolution=64,
    max_side=107,
    keep="last",
)
FRAMES = np.arange(0, 60, 5)


def make_samples(videos: range, sentences: int = 3) -> list[Sample]:
    """``sentences`` about each video; the first sentence is the same for all of them."""
    made = []
    for v in videos:
        video = Video(f"v{v}", f"v{v}.mp4", 64, 64, 25.0, 60)
        for s in range(sentences):
            boxes = np.tile(np.array([1.0, 2.0, 30.5, 40.0 + s]), (20, 1))
            text = "who runs?" if s == 0 else f"sentence {s} about video {v}"
            made.append(Sample(100 * v + s, video, text, "all", "train", (0, 60), (10, 30), boxes, target_id=str(s)))
    return made


def features(seed: int, rows: int = len(FRAMES)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 4, 5, 600)).astype(np.float16)


def sums(values: np.ndarray) -> np.ndarray:
    """What a unit records of its maps."""
    cells = values.reshape(-1, values.shape[-1]).astype(np.float64)
    return np.stack([cells.sum(0), (cells**2).sum(0)])


def write_video(cache: Cache, video_id: str, seed: int, **attributes: object) -> None:
    with cache.store.writer(video_key(video_id)) as unit:
        values = features(seed)
        unit.add("c5", values.shape, values.dtype, {ROWS: "frame"})
        unit.append("c5", values)
        unit.add("c5_sums", (2, 600), np.float64)
        unit.append("c5_sums", sums(values))
        facts = {"fingerprint": cache.recipe.fingerprint, "frames": FRAMES.tolist()}
        unit.commit({**facts, "views": [View(64, 64, 64, 64).to_json()], **attributes})


def token_features(sentence: str) -> np.ndarray:
    seed = int.from_bytes(sentence.encode(errors="surrogatepass")[-8:], "little")
    return np.random.default_rng(seed).standard_normal((len(sentence.split()) + 2, 64)).astype(np.float16)


def write_text(cache: Cache, sentences: list[str] | None = None) -> str:
    """A unit of token features, of the sentences of the cache's annotation set unless others are named; its key."""
    sentences = cache.samples.sentences() if sentences is None else sentences
    blocks, hashes = [token_features(sentence) for sentence in sentences], sentence_hashes(sentences)
    offsets = np.cumsum([0, *map(len, blocks)], dtype=np.int64)
    with cache.store.writer(text_key(hashes)) as unit:
        arrays = {"hashes": hashes, "offsets": offsets, "hidden": np.concatenate(blocks)}
        for name, values in arrays.items():
            unit.add(name, values.shape, values.dtype, {ROWS: "token"} if name == "hidden" else None)
        for name, values in arrays.items():
            unit.append(name, values)
        unit.commit({"fingerprint": cache.recipe.fingerprint})
    return text_key(hashes)


def annotated(path, samples: list[Sample], store: str = "zarr", name: str = "json", **recipe) -> Cache:
    """A cache with an annotation set and no features."""
    cache = Cache.create(path, replace(RECIPE, **recipe), store, {"stvg": "0"})
    return cache.annotate(AnnotationSet.of(name, "json", samples))


def make_cache(path, videos: range = range(4), store: str = "zarr", samples: range | None = None, **recipe) -> Cache:
    """A cache with the units of ``videos`` and the samples of ``samples`` (the same videos by default)."""
    table = make_samples(videos if samples is None else samples)
    cache = annotated(path, table, store, **recipe)
    write_text(cache)
    for v in videos:
        write_video(cache, f"v{v}", v)
    return cache


def contents(cache: Cache) -> dict[str, tuple[dict, dict[str, bytes]]]:
    """Everything in the store, as attributes and bytes of arrays."""
    return {
        key: (cache.store.attributes(key), {n: cache.store.read(key, n).tobytes() for n in cache.store.arrays(key)})
        for room in ("videos", "more", "text")
        for key in cache.store.keys(room)
    }
