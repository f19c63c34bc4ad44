"""Find the file of each video below the folder of videos, by the path that its record names."""

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
"""Video id → its file, or the error that says why there is none."""
Identity = tuple[int, int]
"""Device and inode: equal for two names of one file."""


def find_video_files(videos: Iterable[Video], folder: Path, dataset: str = "json") -> VideoFiles:
    """The file of each video, or an error that names files with similar names.

    A file matches a record if its path is the recorded one, or if it is anywhere below ``folder`` and its absolute path
    ends with the recorded one. Unicode normalisation, backslashes and the case of the suffix make no difference. If
    file names are unique in the dataset (`one_of_all`), the recorded folders may be absent. A file that matches one
    record is never used for another. Raises UsageError if ``folder`` is no folder, or if two different files match a
    record.
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
    for video in sorted(missing, key=lambda v: -len(parts_of(v.path))):  # paths with more folders choose first
        candidates = tree.candidates(video.path, flat=find(dataset).one_of_all)
        free = {one: file for one, file in candidates.items() if taken.get(one, video.path) == video.path}
        if len(free) > 1:
            raise UsageError(
                f"{len(free)} different files are called {parts_of(video.path)[-1]}",
                expected=f"one file that matches {video.path}",
                found=some(sorted(map(str, free.values())), 3),
                hint="name a folder that contains each video once",
            )
        for one, file in free.items():
            found[video.video_id], taken[one] = file, video.path
        if not free:
            found[video.video_id] = tree.missing(video)
    return {v.video_id: found[v.video_id] for v in videos}


def require_some(files: VideoFiles, folder: Path) -> None:
    """Raises UsageError if none of several videos was found: then the folder is most likely the wrong one."""
    errors = [file for file in files.values() if isinstance(file, VideoError)]
    if len(errors) < max(2, len(files)):
        return
    near = next((error.facts["found"] for error in errors if "found" in error.facts), None)
    raise UsageError(
        f"none of the {len(errors):,} videos is in {folder}",
        expected=some([error.message.removesuffix(f" {NOT_THERE}") for error in errors], 3),
        found=near or some(sorted(os.listdir(folder)), 3) or "an empty folder",
        effect="nothing was done",
        hint="--videos DIR, the folder that these paths are relative to",
    )


def parts_of(path: str) -> tuple[str, ...]:
    """Folders and file name of a path, normalised: Unicode form, slashes, and the case of the suffix."""
    parts = unicodedata.normalize("NFC", path).replace("\\", "/").split("/")
    *folders, name = [part for part in parts if part not in ("", ".")] or [path]
    stem, suffix = os.path.splitext(name)
    return (*folders, stem + suffix.lower())


def identity(file: Path) -> Identity:
    """Device and inode of a file."""
    status = os.stat(file)
    return status.st_dev, status.st_ino


@dataclass
class Tree:
    """Every file below a folder. Links are followed; hidden files and folders are ignored."""

    root: Path
    by_name: dict[str, list[Path]] = field(default_factory=dict)
    alike: dict[str, list[Path]] = field(default_factory=dict)
    """Files by the letters and digits of the name without its suffix, see `_gist`."""
    folders: set[str] = field(default_factory=set)
    """Names of all folders."""
    closed: list[str] = field(default_factory=list)
    """Folders that cannot be read."""

    @classmethod
    def below(cls, root: Path) -> Tree:
        tree = cls(root)
        above = {str(root): frozenset([os.path.realpath(root)])}  # folder → its real path and those of its parents
        walk = os.walk(root, followlinks=True, onerror=lambda error: tree.closed.append(str(error.filename)))
        for here, folders, names in walk:
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in list(folders):
                place = os.path.join(here, name)
                if (real := os.path.realpath(place)) in above[here]:  # a link to a parent: endless recursion
                    folders.remove(name)
                above[place] = above[here] | {real}
            tree.folders.update(parts_of(name)[-1] for name in folders)
            for name in sorted(name for name in names if not name.startswith(".")):
                tree.by_name.setdefault(parts_of(name)[-1], []).append(Path(here, name))
                tree.alike.setdefault(_gist(name), []).append(Path(here, name))
        return tree

    def candidates(self, path: str, flat: bool) -> dict[Identity, Path]:
        """The files that match ``path``; with ``flat``, by name alone if no folder has a recorded folder's name."""
        wanted = parts_of(path)
        there = [file for file in self.by_name.get(wanted[-1], []) if os.path.isfile(file)]
        fitting = [file for file in there if parts_of(os.path.abspath(file))[-len(wanted) :] == wanted]
        if not fitting and flat and not self.folders & set(wanted[:-1]):
            fitting = there
        # First the recorded place in another spelling, then the exact file name, then another spelling of the name.
        for nearer in (
            [file for file in fitting if parts_of(str(file.relative_to(self.root))) == wanted],
            [file for file in fitting if file.name == os.path.basename(path)],
            fitting,
        ):
            if nearer:
                return {identity(file): file for file in reversed(nearer)}
        return {}

    def missing(self, video: Video) -> VideoError:
        """The error for a video without a file; it lists files with similar names."""
        near = [str(file.relative_to(self.root)) for file in self.alike.get(_gist(parts_of(video.path)[-1]), [])]
        closed = f"{some(self.closed, 3)} cannot be read" if self.closed else None
        return VideoError(
            f"{video.path} {NOT_THERE}",
            video=video.video_id,
            folder=self.root,
            found=" and ".join(said for said in (some(near, 3), closed) if said) or None,
            effect="its sentences cannot be used",
            hint=f"if {near[0]} is the video, rename it as in the annotation" if near else None,
        )


def _gist(name: str) -> str:
    """A key that is equal for similar names: letters and digits, case-folded, without accents and suffix."""
    stem = os.path.splitext(unquote(name))[0]
    return "".join(c for c in unicodedata.normalize("NFKD", stem).casefold() if c.isalnum()) or stem
