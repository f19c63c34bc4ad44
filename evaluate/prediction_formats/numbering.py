"""Map the sample numbers of other projects' files to samples.

Other projects number the sentences of a split themselves. TubeDETR numbers them like `Sample.sample_id`: record by
record, questions before captions. STCAT and CG-STVG number a record's captions before its questions. All of them number
HC-STVG's videos in the order of the annotation file. The numbering is used that agrees with the kind, sentence and
video that the file states. If two different numberings agree with the file, it is ambiguous and refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...cache.schema import Sample
from ...errors import PredictionError
from .fields import Fault, fault_at, shown

LINES = 'write lines {"sample_id": …, "start": …, "end": …, "boxes": {…}} with the ids of the annotations'


@dataclass(frozen=True)
class ScoredSplit:
    """The split that a prediction file belongs to."""

    path: Path
    samples: Sequence[Sample]
    """All samples of the split, in the order of its annotation file."""
    captions_first: Sequence[int] = ()
    """VidSTG: the sample_id at each position when the captions of a record are numbered before its questions."""

    def fault(self, key: str) -> Fault:
        """Makes the errors of the sample that the file calls ``key``."""
        return fault_at(self.path, f"sample {key}")


@dataclass(frozen=True)
class Said:
    """What a file states about a sample besides its number; None if it states nothing."""

    kind: str | None = None
    sentence: str | None = None
    video: str | None = None

    def contradicts(self, sample: Sample) -> tuple[str, str, str] | None:
        """The first fact that contradicts a sample: its name, the annotation's value, the file's value."""
        kind = (self.kind or "")[:5]
        if kind in ("decla", "inter") and sample.qtype != "all" and kind != sample.qtype[:5]:
            return "qtype", sample.qtype, str(self.kind)
        if self.video is not None and self.video not in (sample.video.video_id, Path(sample.video.video_id).stem):
            return "vid2names", sample.video.video_id, self.video
        if self.sentence is not None and _words(self.sentence) != _words(sample.sentence):
            return "vid2sents", sample.sentence, self.sentence
        return None


def _words(sentence: str) -> list[str]:
    """The words of a sentence, for comparison: some projects store it in lower case or without punctuation."""
    return re.findall(r"\w+", sentence.casefold())


def samples_of(said: Mapping[str, Said], split: ScoredSplit, *, captions_first: bool) -> dict[str, Sample]:
    """The sample for each number of a file. ``captions_first``: whether the file may number captions first.

    Raises PredictionError if a number has no sample, if every numbering contradicts the file, and if two numberings
    give different samples and the file does not distinguish them.
    """
    ways = [_own_numbers(split, said)]
    if captions_first and split.captions_first:
        by_id = {s.sample_id: s for s in split.samples}
        ways.append({str(place): by_id[number] for place, number in enumerate(split.captions_first)})
    fitting, wrong = [], None
    for way in ways:
        found = {key: _known(key, way, split) for key in said}
        contradiction = next(((k, c) for k, s in found.items() if (c := said[k].contradicts(s))), None)
        wrong = contradiction or wrong
        if contradiction is None and found not in fitting:
            fitting.append(found)
    if not fitting and wrong:
        key, (field, expected, got) = wrong
        hint = "see that the file was made for this dataset and split"
        raise split.fault(key)(field, "says another sample than its number", expected=expected, found=got, hint=hint)
    if len(fitting) > 1:
        key = next(k for k in said if fitting[0][k] is not fitting[1][k])
        raise split.fault(key)(
            "",
            "the number may mean two sentences, counted with questions or with captions first",
            expected="qtype or vid2sents of every sample, which tell them apart",
            found=f"{shown(fitting[0][key].sentence)} or {shown(fitting[1][key].sentence)}",
            hint=LINES,
        )
    return fitting[0]


def _own_numbers(split: ScoredSplit, keys: Mapping[str, Any]) -> dict[str, Sample]:
    """Samples by sample_id. If these are names and the file has none of them: by position in the annotation file."""
    by_id = {str(s.sample_id): s for s in split.samples}
    if any(isinstance(s.sample_id, int) for s in split.samples) or any(key in by_id for key in keys):
        return by_id
    return {str(place): s for place, s in enumerate(split.samples)}


def _known(key: str, way: Mapping[str, Sample], split: ScoredSplit) -> Sample:
    if key not in way:
        raise PredictionError(
            f"{split.path}: this split has no sample {shown(key)}",
            expected=f"{len(way):,} numbers such as {', '.join(list(way)[:3])}"
            if way
            else "nothing: the split is empty",
            found=shown(key),
            effect="nothing was scored",
            hint="see that the file was made for this dataset and split",
        )
    return way[key]
