"""Coverage: how many of the features that an annotation set needs are in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import CacheError
from ...wording import counted
from ..index import Cache
from ..needs import Needs


@dataclass(frozen=True)
class Lack:
    """Numbers of frames and regions that are missing for a video. ``all``: no usable features are stored."""

    video_id: str
    frames: int
    regions: int
    all: bool
    other_file: bool = False
    """Stored features are of another file or size than the annotation set describes. They are not read."""

    def __str__(self) -> str:
        return f"{counted(self.frames, 'frame')} and {counted(self.regions, 'region')}"


def lacks(cache: Cache) -> Iterator[Lack]:
    """Every video of the cache's annotation set with missing features. Videos with damaged units are left out."""
    table, there = cache.samples, cache.complete()
    if cache.recipe.bare:
        return
    for video_id, rows in table.rows_of_videos.items():
        needs = Needs.of(table, rows, cache.recipe)
        if video_id not in there:
            yield Lack(video_id, len(needs.all_frames()), len(needs.all_regions()), True)
            continue
        try:
            if not cache.means(video_id):
                yield Lack(video_id, len(needs.all_frames()), len(needs.all_regions()), True, other_file=True)
                continue
            frames, regions = cache.unit(video_id).lacking(needs)
        except CacheError:
            continue
        if len(frames) or len(regions):
            yield Lack(video_id, len(frames), len(regions), False)


@dataclass(frozen=True)
class Coverage:
    """Numbers of videos and sentences of an annotation set, with and without features."""

    videos: int
    partly: int
    """Videos with some of their features stored, but not all."""
    missing: int
    """Videos without usable features."""
    skipped: int
    """Videos among ``missing`` that could not be read."""
    other_file: list[str]
    """Videos among ``missing`` with features of another file or size than the set describes."""
    sentences: int
    """Distinct sentences."""
    sentences_missing: int
    """Distinct sentences without features."""

    @classmethod
    def of(cls, cache: Cache) -> Coverage:
        """Coverage of the annotation set that is selected in a cache."""
        found, listed = list(lacks(cache)), cache.skipped()
        missing = [lack.video_id for lack in found if lack.all]
        sentences = cache.samples.sentences()
        return cls(
            len(cache.samples.rows_of_videos),
            len(found) - len(missing),
            len(missing),
            sum(video_id in listed for video_id in missing),
            [lack.video_id for lack in found if lack.other_file],
            len(sentences),
            len(cache.lacking_sentences()),
        )

    @property
    def complete(self) -> int:
        return self.videos - self.partly - self.missing
