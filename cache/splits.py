"""How many sentences the published splits have, so that one is told from what only has its name and its format.

Synthetic data, a part of a split, and annotations of one's own come under the same names; no published figure is theirs.
"""

from __future__ import annotations

PUBLISHED_SENTENCES = {
    ("vidstg", "train"): 80_684,
    ("vidstg", "val"): 8_956,
    ("vidstg", "test"): 10_303,
    ("hcstvg-v1", "train"): 4_500,
    ("hcstvg-v1", "test"): 1_160,
    ("hcstvg-v2", "train"): 10_131,
    ("hcstvg-v2", "val"): 2_000,
}


def is_published_split(dataset: str, split: str, sentences: int) -> bool:
    """Whether annotations of this name with so many sentences are the published split. Strict: one fewer is another."""
    return PUBLISHED_SENTENCES.get((dataset, split)) == sentences
