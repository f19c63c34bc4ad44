"""Finds the video files that annotations name, and measures their size, rate and number of frames."""

from __future__ import annotations

import difflib
import os
import shlex
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ....cache.schema import Video
from ....errors import UsageError, VideoError
from ...video.clock import Clock
from ...video.decode import probe
from ...video.video_files import Tree, parts_of
from ..validate import some
from .model import Clip

SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts"),
        *(".mpg", ".mpeg", ".flv", ".ogv", ".ogg", ".wmv", ".asf"),
    )
)
"""Of video files; a name's end is taken for a suffix only if it is one of these."""


@dataclass(frozen=True)
class VideoFolder:
    """The video files below a folder, hidden ones left out."""

    root: Path
    files: tuple[Path, ...]
    """Sorted."""
    others: tuple[str, ...]
    """Files that are no video by their suffix."""
    by_stem: dict[str, list[Path]]

    @classmethod
    def of(cls, root: Path) -> VideoFolder:
        """Raises UsageError for what is no folder, or holds no video."""
        if not os.path.isdir(root):
            raise UsageError(f"{root} is not a folder of videos", hint="the folder that holds the video files")
        below = sorted(file for files in Tree.below(root).by_name.values() for file in files)
        files = tuple(file for file in below if file.suffix.lower() in SUFFIXES and file.is_file())
        others = tuple(str(file.relative_to(root)) for file in below if file not in set(files))
        if not files:
            pictures = any(name.lower().endswith((".jpg", ".jpeg", ".png")) for name in others)
            raise UsageError(
                f"no video in {root}",
                expected=f"files that end in {', '.join(sorted(SUFFIXES))}",
                found=some(others, 4) if others else "an empty folder",
                hint="make a video of numbered pictures: ffmpeg -framerate 30 -i img1/%06d.jpg -crf 18 SEQUENCE.mp4"
                if pictures
                else None,
            )
        by_stem: dict[str, list[Path]] = {}
        for file in files:
            if any(
                "\ud800" <= letter <= "\udfff" for letter in str(file)
            ):  # how Python spells the bytes of such a name
                raise UsageError(f"{file} has a name that is not UTF-8", hint="rename it")
            by_stem.setdefault(stem_of(parts_of(file.name)[-1]), []).append(file)
        return cls(root, files, others, by_stem)

    def key(self, file: Path) -> str:
        """What a video is called in our files: its path below the folder, without suffix if that is enough."""
        alike = [f for f in self.by_stem[stem_of(parts_of(file.name)[-1])] if f.parent == file.parent]
        name = file.relative_to(self.root).as_posix()
        return stem_of(name) if len(alike) == 1 else name

    def find(self, clip: Clip) -> Path:
        """The file of a video: at the end of its path stand all folders, and the name, that the annotation gives.

        Raises VideoError where there is none, UsageError where there are several.
        """
        for name in (clip.name, *clip.also):
            called = self.by_stem.get(stem_of(parts_of(name)[-1]), [])
            fitting = [file for file in called if names_file(name, file)]
            if len(fitting) > 1:
                found = some([str(file) for file in fitting], 3)
                hint = "give the folder that holds each video once, or name the folders in the annotation"
                raise UsageError(f"{len(fitting)} video files can be {name}", found=found, hint=hint)
            if fitting:
                return fitting[0]
        close = difflib.get_close_matches(stem_of(parts_of(clip.name)[-1]), self.by_stem, 1)
        near = self.by_stem[close[0]][0].relative_to(self.root) if close else None
        raise VideoError(
            f"{clip.name} is not in the folder of videos",
            folder=self.root,
            found=some([str(file.relative_to(self.root)) for file in self.files], 4),
            effect="its tracks and sentences are left out",
            hint=f"make it: ffmpeg {clip.pictures} -crf 18 {shlex.quote(str(self.root / f'{parts_of(clip.name)[-1]}.mp4'))}"
            if clip.pictures
            else f"if {near} is the video, give it the name that the annotation says"
            if near
            else None,
        )

    def describe(self, file: Path) -> tuple[Video, Clock]:
        """What a file turns out to be, and when its frames are shown: every one is decoded. Raises VideoError."""
        found = probe(file)
        rate = Fraction(found.fps).limit_denominator(1001)
        fps = float(rate) if abs(float(rate) - found.fps) < 1e-4 else found.fps
        path = file.relative_to(self.root).as_posix()
        return Video(self.key(file), path, found.width, found.height, fps, found.frames), found.clock


def stem_of(name: str) -> str:
    """A name without the suffix of a video file; what else follows a dot is part of the name."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def names_file(name: str, file: Path) -> bool:
    """Whether a name, with or without folders and suffix, can be this file's."""
    wanted, there = parts_of(name), parts_of(os.path.abspath(file))
    if stem_of(wanted[-1]) == wanted[-1]:
        there = (*there[:-1], stem_of(there[-1]))
    return there[-len(wanted) :] == wanted


def require_agreement(clip: Clip, video: Video, step: int) -> None:
    """Refuse a video of another size, or another number of frames, than the annotation numbers. Raises VideoError.

    ``step``: every how many frames of the video one was annotated.
    """
    effect = "its tracks and sentences are left out: their boxes would point elsewhere"
    if clip.size and clip.size != (video.width, video.height):
        raise VideoError(
            f"{video.path} has another size than its annotation says",
            expected=f"{clip.size[0]}x{clip.size[1]}",
            found=f"{video.width}x{video.height}",
            effect=effect,
            hint="use the file that was annotated",
        )
    if clip.frames is None or clip.by_time:
        return
    numbered = -(-video.frame_count // step)
    if abs(clip.frames - numbered) > (0 if step == 1 else 1):
        every = round(video.frame_count / clip.frames)
        fits = every > 1 and abs(-(-video.frame_count // every) - clip.frames) <= 1
        raise VideoError(
            f"{video.path} has another number of frames than its annotation numbers",
            expected=f"{clip.frames} frames" + (f", one in {step} of the video's" if step > 1 else ""),
            found=f"{video.frame_count} frames",
            effect=effect,
            hint=f"if every {every}th frame of the video was annotated: --step {every}"
            if fits
            else "use the file that was annotated",
        )
