"""`stvg dataset import`: annotations of another tool, the videos, and a table of sentences → files in the `json` format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ....cache.schema import Video
from ....errors import StvgError, UsageError, VideoError
from ....wording import counted
from ...video.clock import Clock
from ..validate import some
from .matching import Objects, explain
from .model import Source
from .presence import is_renumbered, presence_of
from .sentences import BLANK, SentenceEntry, own_sentences, read_sentences, require_split_name, write_blank
from .table import FORMATS
from .videos import VideoFolder, require_agreement
from .written import SplitFiles, require_ours

MOST = 100
"""Faults that are printed."""


@dataclass
class ImportReport:
    """What an import read and wrote, and what it left out and why."""

    counts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Usually intended: objects without a sentence, boxes that the format marks as ignored."""
    faults: list[str] = field(default_factory=list)
    """Most likely mistakes: a missing video, a sentence without a track."""
    wrote: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        lines = [*self.counts, *(f"note: {note}" for note in self.notes)]
        lines += [f"left out: {what}" for what in self.left_out]
        lines += [f"left out, most likely a mistake: {what}" for what in self.faults[:MOST]]
        if (more := len(self.faults) - MOST) > 0:
            lines.append(f"and {more:,} more that are left out by mistake")
        return lines + self.wrote


def import_dataset(
    kind: str,
    path: Path,
    videos: Path,
    out: Path,
    *,
    sentences: Path | None = None,
    split: str = "train",
    step: int = 1,
    bridge: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImportReport:
    """Write ``out``/SPLIT.json for every split of the table of ``sentences``; without sentences, an empty table of them.

    The table of a folder that ``stvg dataset export`` wrote is found in that folder.
    ``kind``: a row of `FORMATS`. ``split``: of sentences whose row names none. ``step``: the annotation's frame k is frame
    k * ``step`` of the video file. ``bridge``: gaps of at most so many annotated frames in a track are straight lines.
    ``progress``: called with (videos looked at, videos in all).
    Raises AnnotationError for files that cannot be read, UsageError for places that are not there or hold something else.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist", expected=FORMATS[kind].holds)
    require_split_name(split)
    report = ImportReport()
    source = FORMATS[kind].read(path)
    report.counts.append(
        f"{kind} at {path}: {counted(len(source.clips), 'video')}, {counted(len(source.tracks), 'track')}, "
        f"{counted(sum(len(t.frames) for t in source.tracks), 'box', 'boxes')}"
    )
    if sentences is None and (beside := path / BLANK).is_file():
        sentences = beside
        report.notes.append(f"the sentences are those of {beside}")
    entries = read_sentences(sentences) if sentences else own_sentences(source.tracks)
    found = _videos(report, source, VideoFolder.of(videos), step, progress)
    objects = _objects(report, source, found, step, bridge)
    report.notes += source.notes
    report.left_out += [f"{count:,} {what}" for what, count in source.left_out.items()]
    if not entries and not sentences:
        return _blank(report, objects, out / BLANK, split)
    split_files = _split_files(report, entries, objects, split)
    if not split_files.samples:
        raise _nothing(
            "no sentence can be used", report, "each row of the table names a video, a track of it, and a sentence"
        )
    files = {out / f"{name}.json": content for name, content in split_files.files().items()}
    require_ours(out, files)
    report.wrote += split_files.write(out, files)
    report.wrote.append(f"then: stvg dataset check --dataset json --annotations {out} --videos {videos}")
    return report


def _nothing(message: str, report: ImportReport, hint: str) -> UsageError:
    found = "\n".join(["", *report.left_out, *report.faults[:MOST]])
    return UsageError(message, found=found, effect="nothing was written", hint=hint)


def _videos(
    report: ImportReport, source: Source, folder: VideoFolder, step: int, progress: Callable[[int, int], None]
) -> dict[str, tuple[Video, Clock]]:
    """The videos that are there and are as annotated, by what the annotation calls them; and their clocks."""
    files: dict[str, Path] = {}
    for clip in source.clips.values():
        try:
            files[clip.name] = folder.find(clip)
        except VideoError as error:
            report.faults.append(str(error))
    if len(source.clips) > 1 and not files:
        message, expected = f"none of the {len(source.clips):,} videos is in {folder.root}", some(list(source.clips), 4)
        there = some([str(file.relative_to(folder.root)) for file in folder.files], 4)
        raise UsageError(message, expected=expected, found=there, effect="nothing was written", hint="--videos DIR")
    found: dict[str, tuple[Video, Clock]] = {}
    taken: dict[Path, str] = {}
    for number, (name, file) in enumerate(files.items(), start=1):
        if (other := taken.setdefault(file, name)) != name:
            raise UsageError(f"{file} is the file of two videos", found=f"{other}, {name}")
        try:
            video, clock = folder.describe(file)
            require_agreement(source.clips[name], video, step)
            found[name] = video, clock
        except VideoError as error:
            report.faults.append(str(error))
        progress(number, len(files))
    for name, (video, clock) in found.items():
        if is_renumbered(clip := source.clips[name], clock):
            report.notes.append(
                f"{video.path}: {clip.frames} frames are numbered, the file has {video.frame_count}; they are converted by "
                "their time"
            )
    return found


def _objects(
    report: ImportReport, source: Source, found: dict[str, tuple[Video, Clock]], step: int, bridge: int
) -> Objects:
    objects = Objects(source.clips, {clip: video for clip, (video, _) in found.items()})
    lost: dict[str, str] = {}
    outside, beyond = Counter[str](), Counter[str]()
    for track in source.tracks:
        if track.clip not in found or track.clip in lost:
            continue
        video, clock = found[track.clip]
        try:
            there = presence_of(track, source.clips[track.clip], video, clock, step, bridge)
        except StvgError as error:
            lost[track.clip] = str(error)
            continue
        name = f"{video.video_id}/{track.name}"
        outside[name] += there.outside
        beyond[name] += there.beyond
        if there.runs:
            objects.add(track.clip, there)
        else:
            report.left_out.append(f"track {name}: none of its boxes is inside the picture")
    for clip in lost:
        objects.drop(clip)
    report.faults += lost.values()
    if outside.total():
        report.left_out.append(f"{counted(outside.total(), 'box', 'boxes')} outside the picture, {explain(outside)}")
    if beyond.total():
        report.notes.append(
            f"{counted(beyond.total(), 'box', 'boxes')} beyond the picture's edge, kept: {explain(beyond)}"
        )
    return objects


def _blank(report: ImportReport, objects: Objects, file: Path, split: str) -> ImportReport:
    if file.exists():
        hint = f"--sentences {file}, or move it away"
        raise UsageError(f"{file} is there already", effect="it is left as it is", hint=hint)
    if not objects.by_clip:
        raise _nothing("no track can be used", report, "stvg dataset import needs the videos that were annotated")
    rows = write_blank(file, objects.named(), split)
    report.wrote.append(
        f"wrote {file} with {counted(rows, 'row')}: fill in the column 'sentence', then repeat the command with "
        f"--sentences {file}"
    )
    return report


def _split_files(report: ImportReport, entries: Iterable[SentenceEntry], objects: Objects, split: str) -> SplitFiles:
    split_files = SplitFiles(split)
    blank, told = [], set()
    for entry in entries:
        if not entry.sentence:
            blank.append(entry.where)
            continue
        try:
            there, run = objects.wanted(entry)
        except UsageError as error:
            report.faults.append(f"the sentence of {entry.where}: {error}")
            continue
        told.add(id(there))
        video = objects.videos[there.track.clip]
        try:
            split_files.add(entry, video, there.track.name, run)
        except ValueError as error:
            assert entry.row
            raise entry.row.fault("id", str(error), found=entry.sample_id) from None
    if blank:
        report.left_out.append(f"{counted(len(blank), 'row')} without a sentence: {some(blank, 5)}")
    silent = [f"{video}/{there.track.name}" for video, there in objects.named() if id(there) not in told]
    if silent:
        report.left_out.append(f"{counted(len(silent), 'track')} without a sentence: {some(silent, 5)}")
    return split_files
