"""Sentences that are longer than RoBERTa reads: which, by how much, and which of them become the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..cache.schema import Sample
from ..errors import CheckpointError
from ..wording import counted
from .encoders.tokenizer import LONGEST, load_tokenizer

LISTED = 10
"""Samples that a notice names; of the others it says how many there are."""
SHOWN = 30
"""Letters of a sentence's beginning in a notice."""


def token_counts(tokenizer: Any, sentences: Iterable[str]) -> dict[str, int]:
    """How many tokens, marks included, the sentences of more than LONGEST have. Others are left out."""
    long = may_be_long(sentences)
    counts = [len(ids) for ids in tokenizer(long, truncation=False, verbose=False)["input_ids"]] if long else []
    return {s: n for s, n in zip(long, counts, strict=True) if n > LONGEST}


def may_be_long(sentences: Iterable[str]) -> list[str]:
    """The distinct sentences that can have more than LONGEST tokens: every token but the two marks is a byte at least."""
    return [s for s in dict.fromkeys(sentences) if len(s.encode("utf-8", "surrogatepass")) > LONGEST - 2]


def notice_of_cuts(samples: Sequence[Sample], tokenizer: Any) -> str | None:
    """Which samples' sentences are cut, and which of these are read alike; None where every sentence is read whole.

    ``tokenizer``: of the text encoder, None for one that reads any length.
    """
    counts = token_counts(tokenizer, (s.sentence for s in samples)) if tokenizer else {}
    if not counts:
        return None
    cut = tokenizer(list(counts), truncation=True, max_length=LONGEST)["input_ids"]
    read = dict(zip(counts, map(tuple, cut), strict=True))
    first: dict[tuple[int, ...], Sample] = {}
    lines = []
    for sample in (s for s in samples if s.sentence in counts):
        same = first.setdefault(read[sample.sentence], sample)
        alike = f"; read like that of sample {same.sample_id}" if same.sentence != sample.sentence else ""
        lines.append(f"sample {sample.sample_id}: {counts[sample.sentence]:,} tokens{alike}; {beginning(sample)}")
    what = f"{listed(len(lines), 'sentence')} cut after {LONGEST} tokens, all that RoBERTa reads"
    return "\n".join([f"{what}; sentences that differ only after that get equal features", *shown(lines)])


def notice_of_long_ones(samples: Sequence[Sample], folder: str | None) -> str | None:
    """As `notice_of_cuts`, with the tokenizer of a folder or of the local cache, and without one what is certain.

    Raises CheckpointError for a folder without RoBERTa's tokenizer.
    """
    long = set(may_be_long(s.sentence for s in samples))
    if folder is None and not long:
        return None
    try:
        return notice_of_cuts(samples, load_tokenizer(folder))
    except CheckpointError:
        if folder is not None:
            raise
    lines = [
        f"sample {s.sample_id}: at least {len(s.sentence.split()) + 2:,} tokens, at most "
        f"{len(s.sentence.encode('utf-8', 'surrogatepass')) + 2:,}; {beginning(s)}"
        for s in samples
        if s.sentence in long
    ]
    many = counted(len(lines), "sentence")
    what = f"{many} may have more than the {LONGEST} tokens that RoBERTa reads; what is more is cut off"
    return "\n".join([f"{what}. --tokenizer DIR counts them", *shown(lines)])


def beginning(sample: Sample) -> str:
    """How a sample's sentence begins, on one line."""
    text = " ".join(sample.sentence.split())
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def listed(count: int, name: str) -> str:
    return f"{counted(count, name)} {'is' if count == 1 else 'are'}"


def shown(lines: list[str]) -> list[str]:
    more = [f"and {len(lines) - LISTED:,} more"] if len(lines) > LISTED else []
    return [f"  {line}" for line in lines[:LISTED] + more]
