"""How much of what an annotation set needs is in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import CacheError
from ...wording import counted
from ..index import Cache
from ..needs import Needs


@dataclass(frozen=True)
class Lack:
    """What a video lacks; ``all``: nothing of it is there."""

    video_id: str
    frames: int
    regions: int
    all: bool
    other_file: bool = False
    """Its features are there, and are of another file, or size, than the set means: none of them is read."""

    def __str__(self) -> str:
        return f"{counted(self.frames, 'frame')} and {counted(self.regions, 'region')}"


def lacks(cache: Cache) -> Iterator[Lack]:
    """Every video of the cache's annotation set that lacks anything. Videos whose units are damaged are passed over."""
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
    """Counts of an annotation set."""

    videos: int
    partly: int
    """Videos of which something is there and something is missing."""
    missing: int
    """Videos of which nothing is there; ``skipped`` of them could not be read."""
    skipped: int
    other_file: list[str]
    """Of those of which nothing is there: videos whose features are of another file, or size, than the set means."""
    sentences: int
    """Different ones."""
    sentences_missing: int

    @classmethod
    def of(cls, cache: Cache) -> Coverage:
        """Of the set that a cache is seen through."""
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
