"""Finds the object that a row of the sentence table names, and the run of boxes that holds its moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ....cache.schema import Video
from ....errors import UsageError
from ...video.video_files import parts_of
from ..validate import some
from .model import Clip
from .presence import Presence, Run
from .sentences import SentenceEntry
from .videos import stem_of


@dataclass
class Objects:
    """The objects of all usable videos, found by name."""

    clips: Mapping[str, Clip]
    videos: dict[str, Video]
    """By the name of the clip."""
    by_clip: dict[str, dict[str, Presence]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._names: dict[tuple[str, ...], set[str]] = {}
        for clip in self.clips.values():
            video = self.videos.get(clip.name)
            for name in (clip.name, *clip.also, *((video.video_id, video.path) if video else ())):
                parts = _parts(name)
                for i in range(len(parts)):
                    self._names.setdefault(parts[i:], set()).add(clip.name)

    def add(self, clip: str, there: Presence) -> None:
        self.by_clip.setdefault(clip, {})[there.track.name] = there

    def drop(self, clip: str) -> None:
        """Forget a video that turned out not to be the annotated one."""
        self.by_clip.pop(clip, None)
        self.videos.pop(clip, None)

    def named(self) -> Iterator[tuple[str, Presence]]:
        """Every object, with the name of its video."""
        for clip, tracks in self.by_clip.items():
            for there in tracks.values():
                yield self.videos[clip].video_id, there

    def wanted(self, entry: SentenceEntry) -> tuple[Presence, Run]:
        """What a sentence is about. Raises UsageError where that is not there, or cannot be told."""
        there = self._object(entry, self._clip(entry))
        runs = ", ".join(str(run) for run in there.runs[:4]) + (" …" if len(there.runs) > 4 else "")
        if entry.moment is None:
            if len(there.runs) > 1:
                hint = "say which in the columns start and end; --bridge N joins what is at most N frames apart"
                raise UsageError(f"track {entry.track} of {entry.video} is there more than once", found=runs, hint=hint)
            return there, there.runs[0]
        for run in there.runs:
            if run.span[0] <= entry.moment[0] and entry.moment[1] <= run.span[1]:
                return there, run
        raise UsageError(
            f"its moment [{entry.moment[0]}, {entry.moment[1]}) has frames without a box",
            expected=f"a moment within {runs}, where track {entry.track} of {entry.video} has boxes",
            hint="change start and end; --bridge N joins what is at most N frames apart"
            if len(there.runs) > 1
            else None,
        )

    def _clip(self, entry: SentenceEntry) -> str:
        exact = [entry.video] if entry.video in self.clips else sorted(self._names.get(_parts(entry.video), ()))
        if len(exact) > 1:
            raise UsageError(f"several videos can be {entry.video}", found=some(exact, 4))
        if not exact:
            raise UsageError(f"no video {entry.video}", found=some(list(self.clips), 5))
        if exact[0] not in self.videos:
            raise UsageError(f"video {entry.video} cannot be used, as said above")
        return exact[0]

    def _object(self, entry: SentenceEntry, clip: str) -> Presence:
        tracks = self.by_clip.get(clip, {})
        if entry.track in tracks:
            return tracks[entry.track]
        labelled = [there for there in tracks.values() if there.track.label == entry.track]
        if len(labelled) == 1:
            return labelled[0]
        known = [f"{name} ({there.track.label})" if there.track.label else name for name, there in tracks.items()]
        if labelled:
            found = some([there.track.name for there in labelled])
            raise UsageError(f"several tracks of {entry.video} are called {entry.track}", found=found)
        raise UsageError(f"{entry.video} has no track {entry.track}", found=some(known) if known else "no track at all")


def _parts(name: str) -> tuple[str, ...]:
    *folders, last = parts_of(name)
    return (*folders, stem_of(last))


def explain(counts: Counter[str]) -> str:
    """Which tracks they are of, the most first."""
    return some([f"{name} ({count})" for name, count in counts.most_common() if count], 4)
