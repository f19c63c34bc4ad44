"""COCO with videos (``--format coco-vid``): MMTracking's CocoVID, what is like it, and YouTube-VIS.

``videos`` and ``categories`` are lists of objects with an ``id``. Either ``images`` have ``video_id`` and ``frame_id``, and
every annotation is the box of one object in one image; or every annotation is an object, with a list of boxes, one for
each frame of its video, null where it is not there. Boxes are [x, y, width, height].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....errors import AnnotationError, UsageError
from ....wording import counted
from ..json_file import read_json
from ..validate import Fields, coordinates, describe, some
from .model import Clip, Rows, Source, Track, from_size

TRACK_KEYS = ("track_id", "instance_id", "object_id")
FRAME_KEYS = ("frame_id", "frame_index")


def read(path: Path) -> Source:
    """``path``: a file, or a folder with one. Raises AnnotationError; UsageError for a folder with several or none."""
    if path.is_dir():
        path = _file_in(path)
    whole = Fields.of(read_json(path, repeated_keys=True)[0], path, None)
    videos = _by_id(whole, "videos")
    categories = _by_id(whole, "categories")
    labels = {key: c.whole_characters("name", str(c.values.get("name", ""))) for key, c in categories.items()}
    annotations = whole.children("annotations")
    source = Source()
    if any("bboxes" in a.values for a in annotations):
        _read_lists(source, videos, annotations, labels)
    else:
        _read_images(source, whole, videos, annotations, labels)
    return source


def _file_in(folder: Path) -> Path:
    files = sorted(folder.glob("*.json"))
    if len(files) != 1:
        raise UsageError(
            f"{folder} holds {counted(len(files), 'JSON file')}",
            expected="one file, or a folder with one",
            found=some([file.name for file in files], 4) if files else None,
            hint="name the file; import one split after the other" if files else "name the JSON file",
        )
    return files[0]


def _read_lists(source: Source, videos: dict[Any, Fields], annotations: list[Fields], labels: dict[Any, str]) -> None:
    """YouTube-VIS: an annotation for every object."""
    names: dict[Any, str] = {}
    for key, video in videos.items():
        length = video.integer("length", 1) if "length" in video.values else None
        if length is None and "file_names" in video.values:
            length = len(video.array("file_names")) or None
        names[key] = _add_clip(source, video, length)
    seen: set[tuple[str, str]] = set()
    for where in annotations:
        if _ignored(source, where):
            continue
        clip = names[_reference(where, "video_id", videos)]
        name = _track_name(where) or where.whole_characters("id", str(where.values.get("id")))
        if (clip, name) in seen:
            raise where.fault("", f"the object {name} of video {clip} occurs twice")
        seen.add((clip, name))
        listed = list(enumerate(where.array("bboxes")))
        there = [(frame, box) for frame, box in listed if box is not None and box != []]
        rows = Rows(_label(where, labels))
        for (frame, _), box in zip(there, coordinates(where, "bboxes", [b for _, b in there], there), strict=True):
            rows.add(frame, from_size(box.tolist()))
        _add_track(source, where, clip, name, rows)


def _read_images(
    source: Source, whole: Fields, videos: dict[Any, Fields], annotations: list[Fields], labels: dict[Any, str]
) -> None:
    """CocoVID: an annotation for every box."""
    images = _by_id(whole, "images")
    numbers: dict[Any, set[int]] = {key: set() for key in videos}
    places: dict[Any, tuple[Any, int]] = {}
    for key, image in images.items():
        video = _reference(image, "video_id", videos)
        frame = image.integer(next((k for k in FRAME_KEYS if k in image.values), FRAME_KEYS[0]))
        if frame in numbers[video]:
            raise image.fault(FRAME_KEYS[0], "two images of one frame of a video", found=frame)
        numbers[video].add(frame)
        places[key] = video, frame
    first = _first_number(whole.file, [found for found in numbers.values() if found])
    if first:
        source.notes.append("frames count from 1 in this file: no image has frame 0")
    names: dict[Any, str] = {}
    for key, video in videos.items():
        found = numbers[key]
        complete = bool(found) and len(found) == max(found) - first + 1
        names[key] = _add_clip(source, video, len(found) if complete else None)
    tracks: dict[tuple[str, str], tuple[Fields, Rows]] = {}
    for where in annotations:
        if _ignored(source, where):
            continue
        video, frame = places[_reference(where, "image_id", places)]
        if (name := _track_name(where)) is None:
            expected = f"one of {', '.join(TRACK_KEYS)}: which object it is, the same in all frames"
            raise where.fault("", "a box that is of no track", expected=expected, found=", ".join(where.values))
        _, rows = tracks.setdefault((names[video], name), (where, Rows(_label(where, labels))))
        box = coordinates(where, "bbox", [where.array("bbox")], [frame])[0].tolist()
        rows.add(frame - first, from_size(box))
    for (clip, name), (where, rows) in tracks.items():
        _add_track(source, where, clip, name, rows)


def _first_number(file: Path, numbers: list[set[int]]) -> int:
    """Whether frames count from 0 or 1: both are in use. From 1 where every video begins with it."""
    firsts = {min(found) for found in numbers}
    if firsts == {1}:
        return 1
    if 0 not in firsts and firsts:
        expected = "a video with frame 0, or all videos from frame 1 on"
        found = f"videos that begin with frames {', '.join(map(str, sorted(firsts)[:6]))}"
        hint = "list the images of all frames, also those without a box"
        raise AnnotationError(file, None, "images", "frames count from 0 or 1, and nothing tells which", expected=expected, found=found, hint=hint)  # fmt: skip  # noqa: E501
    return 0


def _add_clip(source: Source, video: Fields, frames: int | None) -> str:
    texts = [video.text(key) for key in ("file_name", "name") if video.values.get(key)]
    texts += [folder] if not texts and (folder := _folder_of_frames(video)) else []
    if not texts:
        raise video.fault("name", "missing", expected="name or file_name, which the video file is called by")
    size = (video.values.get("width"), video.values.get("height"))
    known = (video.integer("width", 1), video.integer("height", 1)) if None not in size else None
    source.add_clip(video.file, Clip(texts[0], tuple(texts[1:]), frames, known))
    return texts[0]


def _folder_of_frames(video: Fields) -> str | None:
    """YouTube-VIS names pictures alone: ``abc/00000.jpg``."""
    listed = video.values.get("file_names")
    first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], str) else ""
    return first.rpartition("/")[0] or None


def _add_track(source: Source, where: Fields, clip: str, name: str, rows: Rows) -> None:
    if not rows.frames:
        source.left_out["tracks without a box"] += 1
        return
    sentence = where.sentence("caption") if where.values.get("caption") else None
    frames, boxes, _ = rows.arrays(where.file, f"{clip}, track {name}")
    source.tracks.append(Track(clip, name, rows.label, frames, boxes, sentence=sentence))


def _label(where: Fields, labels: dict[Any, str]) -> str:
    category = where.values.get("category_id")
    return labels.get(category, "") if isinstance(category, int | str) else ""


def _track_name(where: Fields) -> str | None:
    nested = where.values.get("attributes")
    for values in (where.values, nested if isinstance(nested, dict) else {}):
        for key in TRACK_KEYS:
            if isinstance(found := values.get(key), int | str) and not isinstance(found, bool):
                return where.whole_characters(key, str(found))
    return None


def _ignored(source: Source, where: Fields) -> bool:
    for key in ("iscrowd", "ignore"):
        if where.values.get(key) in (1, True):
            source.left_out[f"annotations with {key} 1"] += 1
            return True
    return False


def _by_id(whole: Fields, key: str) -> dict[Any, Fields]:
    found: dict[Any, Fields] = {}
    for where in whole.children(key):
        if not isinstance(number := where.values.get("id"), int | str):
            raise where.fault("id", "not an id", expected="a whole number or a text", found=describe(number))
        if number in found:
            raise where.fault("id", "occurs twice", found=describe(number))
        found[number] = where
    return found


def _reference(where: Fields, key: str, known: dict[Any, Any]) -> Any:
    number = where.values.get(key)
    if not isinstance(number, int | str) or number not in known:
        raise where.fault(key, f"not among the file's {key.removesuffix('_id')}s", found=describe(number))
    return number
