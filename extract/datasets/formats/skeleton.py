"""`stvg dataset new`: a file in the `json` format for a folder of videos, whose sentences and boxes people fill in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ....atomic import make_folder, write_atomic
from ....cache.schema import Video
from ....errors import UsageError, VideoError
from ....wording import counted
from ..validate import some
from .sentences import require_split_name
from .videos import VideoFolder
from .written import as_json, video_record


def write_skeleton(
    videos: Path, out: Path, split: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[str], list[str]]:
    """Write ``out``/SPLIT.json: what to say of it, and of videos that cannot be read.

    ``progress``: called with (videos looked at, videos in all). Raises UsageError for a folder without videos, and where
    the file is there already.
    """
    require_split_name(split)
    file = out / f"{split}.json"
    if file.exists():
        raise UsageError(
            f"{file} is there already", effect="it is left as it is", hint="choose another --out or --split"
        )
    folder = VideoFolder.of(videos)
    found: list[Video] = []
    faults = []
    for number, path in enumerate(folder.files, start=1):
        try:
            found.append(folder.describe(path)[0])
        except VideoError as error:
            faults.append(f"left out: {error}")
        progress(number, len(folder.files))
    if not found:
        raise UsageError(
            f"no video in {videos} can be read", found="\n" + "\n".join(faults), effect="nothing was written"
        )
    samples = [
        {
            "id": f"{video.video_id}/1",
            "video": video.video_id,
            "sentence": "",
            "moment": [0, video.frame_count],
            "target": "1",
            "boxes": {},
            "interpolate": True,
        }
        for video in found
    ]
    make_folder(out)
    write_atomic(file, as_json({video.video_id: video_record(video) for video in found}, samples))
    others = (
        [f"{counted(len(folder.others), 'other file')} in {videos}: {some(folder.others, 4)}"] if folder.others else []
    )
    return [
        *others,
        f"wrote {file} with {counted(len(found), 'video')} and a sample for each",
        "fill in sentence, moment and boxes (key frames, at least at the moment's first and last frame); copy a sample to "
        "say more about a video",
        f"what is missing: stvg dataset check --dataset json --annotations {out} --videos {videos}",
    ], faults
