"""Which file is a video's: the one its record names, wherever below the folder of videos it lies."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from ...cache.schema import Video
from ...cache.skipped import NOT_THERE
from ...errors import UsageError, VideoError
from ..datasets.table import find
from ..datasets.validate import some

VideoFiles = dict[str, Path | VideoError]
"""By video id: its file, or the error that says why there is none."""
Identity = tuple[int, int]
"""Device and inode: what two names of one file have in common."""


def find_video_files(videos: Iterable[Video], folder: Path, dataset: str = "json") -> VideoFiles:
    """The file of each video, or an error that names the nearest files.

    A file is a video's when it lies where the record says, or anywhere below ``folder`` if every folder that the record
    names is above it. Another Unicode form, a backslash for a slash and the case of the suffix make no other name. Where
    the dataset says that a name is one of all, the folders around it may be missing. A file that one record names is never
    taken for another's. Raises UsageError when ``folder`` is no folder, or two different files fit a record.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"{folder} is not a folder of videos", hint="--videos DIR")
    videos = list(videos)
    found: VideoFiles = {v.video_id: folder / v.path for v in videos if os.path.isfile(folder / v.path)}
    missing = [v for v in videos if v.video_id not in found]
    if not missing:
        return found
    tree = Tree.below(folder)
    taken = {identity(folder / v.path): v.path for v in videos if v.video_id in found}
    for video in sorted(missing, key=lambda v: -len(parts_of(v.path))):  # who names more folders chooses first
        candidates = tree.candidates(video.path, flat=find(dataset).one_of_all)
        free = {one: file for one, file in candidates.items() if taken.get(one, video.path) == video.path}
        if len(free) > 1:
            raise UsageError(
                f"{len(free)} different files are called {parts_of(video.path)[-1]}",
                expected=f"one that can be {video.path}",
                found=some(sorted(map(str, free.values())), 3),
                hint="point to a folder that holds each video once",
            )
        for one, file in free.items():
            found[video.video_id], taken[one] = file, video.path
        if not free:
            found[video.video_id] = tree.missing(video)
    return {v.video_id: found[v.video_id] for v in videos}


def require_some(files: VideoFiles, folder: Path) -> None:
    """Raise UsageError when not one of several videos was found: then the folder is most likely another one."""
    errors = [file for file in files.values() if isinstance(file, VideoError)]
    if len(errors) < max(2, len(files)):
        return
    near = next((error.facts["found"] for error in errors if "found" in error.facts), None)
    raise UsageError(
        f"none of the {len(errors):,} videos is in {folder}",
        expected=some([error.message.removesuffix(f" {NOT_THERE}") for error in errors], 3),
        found=near or some(sorted(os.listdir(folder)), 3) or "an empty folder",
        effect="nothing was done",
        hint="--videos DIR, the folder that these names start from",
    )


def parts_of(path: str) -> tuple[str, ...]:
    """Folders and name of a recorded path, all spellings of one path alike."""
    parts = unicodedata.normalize("NFC", path).replace("\\", "/").split("/")
    *folders, name = [part for part in parts if part not in ("", ".")] or [path]
    stem, suffix = os.path.splitext(name)
    return (*folders, stem + suffix.lower())


def identity(file: Path) -> Identity:
    """The same for two names of one file."""
    status = os.stat(file)
    return status.st_dev, status.st_ino


@dataclass
class Tree:
    """Every file below a folder, links followed; hidden ones are nobody's videos."""

    root: Path
    by_name: dict[str, list[Path]] = field(default_factory=dict)
    alike: dict[str, list[Path]] = field(default_factory=dict)
    """By the letters and digits of the name, without its suffix."""
    folders: set[str] = field(default_factory=set)
    """Names of all folders."""
    closed: list[str] = field(default_factory=list)
    """Folders that cannot be read."""

    @classmethod
    def below(cls, root: Path) -> Tree:
        tree = cls(root)
        above = {str(root): frozenset([os.path.realpath(root)])}  # of every folder, itself and those it lies in
        walk = os.walk(root, followlinks=True, onerror=lambda error: tree.closed.append(str(error.filename)))
        for here, folders, names in walk:
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in list(folders):
                place = os.path.join(here, name)
                if (real := os.path.realpath(place)) in above[here]:  # a link back up would never end
                    folders.remove(name)
                above[place] = above[here] | {real}
            tree.folders.update(parts_of(name)[-1] for name in folders)
            for name in sorted(name for name in names if not name.startswith(".")):
                tree.by_name.setdefault(parts_of(name)[-1], []).append(Path(here, name))
                tree.alike.setdefault(_gist(name), []).append(Path(here, name))
        return tree

    def candidates(self, path: str, flat: bool) -> dict[Identity, Path]:
        """The files that can be ``path``. ``flat``: without its folder, where there is no such folder."""
        wanted = parts_of(path)
        there = [file for file in self.by_name.get(wanted[-1], []) if os.path.isfile(file)]
        fitting = [file for file in there if parts_of(os.path.abspath(file))[-len(wanted) :] == wanted]
        if not fitting and flat and not self.folders & set(wanted[:-1]):
            fitting = there
        # At the very place in another spelling, else under the very name, else under another spelling of it.
        for nearer in (
            [file for file in fitting if parts_of(str(file.relative_to(self.root))) == wanted],
            [file for file in fitting if file.name == os.path.basename(path)],
            fitting,
        ):
            if nearer:
                return {identity(file): file for file in reversed(nearer)}
        return {}

    def missing(self, video: Video) -> VideoError:
        """What to say of a video without a file, with the files that are called alike."""
        near = [str(file.relative_to(self.root)) for file in self.alike.get(_gist(parts_of(video.path)[-1]), [])]
        closed = f"{some(self.closed, 3)} cannot be read" if self.closed else None
        return VideoError(
            f"{video.path} {NOT_THERE}",
            video=video.video_id,
            folder=self.root,
            found=" and ".join(said for said in (some(near, 3), closed) if said) or None,
            effect="its sentences cannot be used",
            hint=f"if {near[0]} is the video, give it the name that the annotation says" if near else None,
        )


def _gist(name: str) -> str:
    """What names that differ a little have in common: letters and digits, in one case, without accents or suffix."""
    stem = os.path.splitext(unquote(name))[0]
    return "".join(c for c in unicodedata.normalize("NFKD", stem).casefold() if c.isalnum()) or stem
