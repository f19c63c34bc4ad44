"""Report sentences that are longer than a text encoder reads, and those that are equal after they are cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..cache.schema import Sample
from ..errors import CheckpointError
from ..wording import counted
from .encoders.tokenizer import LONGEST, TokenReader

LISTED = 10
"""Samples listed in a notice; the others are counted."""
SHOWN = 30
"""Characters of a sentence shown in a notice."""
FIELDS = "roberta-base"
"""The papers' text encoder; bounds of its token counts are known without its tokenizer."""


def token_counts(reader: TokenReader, sentences: Iterable[str]) -> dict[str, int]:
    """Sentence → number of tokens (start and end included), for sentences longer than the encoder reads."""
    if reader.longest is None:
        return {}
    long = may_be_long(sentences, reader.longest)
    counts = [len(ids) for ids in reader.tokenizer(long, truncation=False, verbose=False)["input_ids"]] if long else []
    return {s: n for s, n in zip(long, counts, strict=True) if n > reader.longest}


def may_be_long(sentences: Iterable[str], longest: int) -> list[str]:
    """The distinct sentences that can exceed ``longest`` tokens: every token has a byte, except start and end."""
    return [s for s in dict.fromkeys(sentences) if len(s.encode("utf-8", "surrogatepass")) > longest - 2]


def notice_of_cuts(samples: Sequence[Sample], reader: TokenReader | None) -> str | None:
    """List the samples whose sentences are cut, and those equal after the cut; None if no sentence is cut.

    ``reader``: the text encoder's tokenizer; None for an encoder without a limit.
    """
    counts = token_counts(reader, (s.sentence for s in samples)) if reader else {}
    if reader is None or not counts:
        return None
    cut = reader.tokenizer(list(counts), truncation=True, max_length=reader.longest)["input_ids"]
    read = dict(zip(counts, map(tuple, cut), strict=True))
    first: dict[tuple[int, ...], Sample] = {}
    lines = []
    for sample in (s for s in samples if s.sentence in counts):
        same = first.setdefault(read[sample.sentence], sample)
        alike = f"; read like that of sample {same.sample_id}" if same.sentence != sample.sentence else ""
        lines.append(f"sample {sample.sample_id}: {counts[sample.sentence]:,} tokens{alike}; {beginning(sample)}")
    what = f"{listed(len(lines), 'sentence')} cut after {reader.longest} tokens, all that {reader.name} reads"
    return "\n".join([f"{what}; sentences that differ only after that get equal features", *shown(lines)])


def notice_of_long_ones(samples: Sequence[Sample], encoder: str, folder: str | None) -> str | None:
    """As `notice_of_cuts`, for an encoder's name, with the tokenizer of a folder or the encoder's own.

    If no folder is given and RoBERTa's tokenizer is not found, the notice has bounds of the counts. Raises as
    `token_reader` does.
    """
    certain = encoder == FIELDS and folder is None
    long = set(may_be_long((s.sentence for s in samples), LONGEST))
    if certain and not long:
        return None
    from .encoders.text import token_reader  # torch takes seconds to load, and most datasets have no long sentence

    try:
        return notice_of_cuts(samples, token_reader(encoder, folder))
    except CheckpointError:
        if not certain:
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
    """The beginning of a sample's sentence, on one line."""
    text = " ".join(sample.sentence.split())
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def listed(count: int, name: str) -> str:
    return f"{counted(count, name)} {'is' if count == 1 else 'are'}"


def shown(lines: list[str]) -> list[str]:
    more = [f"and {len(lines) - LISTED:,} more"] if len(lines) > LISTED else []
    return [f"  {line}" for line in lines[:LISTED] + more]
