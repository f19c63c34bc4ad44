"""Annotation files of other tools that are damaged or hostile: read whole, or refused with one of our errors."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stvg.cache.schema import Video
from stvg.errors import StvgError
from stvg.extract.datasets.formats.matching import Objects
from stvg.extract.datasets.formats.presence import presence_of
from stvg.extract.datasets.formats.sentences import own_sentences, read_sentences
from stvg.extract.datasets.formats.table import FORMATS
from stvg.extract.datasets.formats.written import SplitFiles
from stvg.extract.video.clock import Clock

VIDEO = Video("v", "v.mp4", 160, 120, 10.0, 60)
CLOCK = Clock.steady(60, 10)


def use(kind: str, path: Path) -> int:
    """Everything that an import does with a file but looking at videos; how many samples come of it."""
    source = FORMATS[kind].read(path)
    objects = Objects(source.clips, dict.fromkeys(source.clips, VIDEO))
    for track in source.tracks:
        there = presence_of(track, source.clips[track.clip], VIDEO, CLOCK, 1, 2)
        if there.runs:
            objects.add(track.clip, there)
            f"{track.clip}{track.name}{track.label}".encode()  # what is written
    split_files = SplitFiles("train")
    for entry in own_sentences(source.tracks):
        there, run = objects.wanted(entry)
        split_files.add(entry, VIDEO, there.track.name, run)
    for content in split_files.files().values():
        json.loads(content.encode())
    return sum(map(len, split_files.samples.values()))


def refused_or_used(kind: str, path: Path) -> None:
    with suppress(StvgError):
        use(kind, path)


JUNK = st.sampled_from(
    (
        *(None, True, -1, 0, 1, 2.5, 1e308, float("nan"), float("inf"), 10**30, 10**400, "", "x", "\ud800", "7"),
        *([], {}, [1, 2, 3, 4], [[1, 2, 3, 4]], {"id": 1}, [None], [{}], "\x00", "\u202eevil", "v" * 5000, "a/../../b"),
    )
)
COCO = {
    "videos": [{"id": 1, "name": "v", "width": 160, "height": 120, "length": 3}],
    "images": [{"id": i, "video_id": 1, "frame_id": i} for i in range(3)],
    "annotations": [
        {"id": i, "image_id": i, "track_id": 5, "category_id": 1, "bbox": [i, 2, 30, 40], "caption": "a thing"}
        for i in range(3)
    ],
    "categories": [{"id": 1, "name": "dog"}],
}
VIS = {
    **COCO,
    "videos": [{"id": 1, "file_names": ["v/1.jpg", "v/2.jpg", "v/3.jpg"]}],
    "annotations": [{"id": 1, "video_id": 1, "bboxes": [None, [1, 2, 3, 4], []], "caption": "a thing"}],
}
KEYS = [
    {"frame": f, "enabled": f < 9, "x": 1, "y": 2, "width": 3, "height": 4, "rotation": f, "time": f} for f in (1, 9)
]
REGION = {
    "id": "r",
    "type": "videorectangle",
    "value": {"framesCount": 60, "duration": 6, "sequence": KEYS, "labels": ["x"]},
}
TASKS = [
    {"id": 1, "data": {"video": "v.mp4"}, "annotations": [{"result": [{**REGION, "meta": {"text": ["a thing"]}}]}]}
]
FILES = {"coco-vid": ("coco-vid", COCO), "youtube-vis": ("coco-vid", VIS), "label-studio": ("label-studio", TASKS)}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in inner for place in places(child, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    """``...`` removes what stands there."""
    if not path:
        return None if junk is ... else junk
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1 and junk is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = replaced(value[path[0]], path[1:], junk)
    return copy


@pytest.mark.parametrize("name", FILES)
def test_a_sound_file_gives_its_samples(name: str, tmp_path: Path) -> None:
    kind, content = FILES[name]
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert use(kind, tmp_path / "a.json") == 1


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_json_with_anything_anywhere_is_used_or_refused(name: str, data: st.DataObject, tmp_path: Path) -> None:
    kind, content = FILES[name]
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(places(content)))
        content = replaced(content, place, data.draw(JUNK | st.just(...)))
    (tmp_path / "a.json").write_text(json.dumps(content))
    refused_or_used(kind, tmp_path / "a.json")


BOX = '<box frame="{}" keyframe="1" outside="{}" xtl="1" ytl="2" xbr="30" ybr="40" rotation="3"><attribute name="caption">a</attribute></box>'  # fmt: skip  # noqa: E501
TEXTS = {
    "cvat": "<annotations><meta><task><id>1</id><name>v</name><stop_frame>59</stop_frame><original_size><width>160</width>"
    "<height>120</height></original_size></task></meta><track id='0' label='x'>"
    + BOX.format(0, 0)
    + BOX.format(9, 1)
    + "</track></annotations>",
    "mot": "1,7,1,2,30,40,1,1,1\n2,7,2,2,30,40,1,1,1\n3,8,2,2,30,40,0,1,1\n",
    "csv": "video,track,frame,x1,y1,x2,y2,label,outside\nv,a,0,1,2,30,40,dog,\nv,a,9,1,2,30,40,dog,\nv,a,12,,,,,,1\n",
}
BYTES = st.sampled_from(
    (
        *(b"", b"\x00", b"\xff", b",", b"\n", b'"', b"<", b">", b"&", b"nan", b"1e999", b"-", b"9" * 400, b"'"),
        *(b"\r", b";", b"\t", b"</track>", b"<track>", b"<box/>", b"<!DOCTYPE x>", b"&#0;", b"=", b".5", b" "),
        *(b"\xe2\x80\xae", b"\xef\xbb\xbf", b"\xed\xa0\x80"),
    )
)


@pytest.mark.parametrize("kind", TEXTS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_text_with_anything_anywhere_is_used_or_refused(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    content = TEXTS[kind].encode()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = start + data.draw(st.integers(0, 4))
        content = content[:start] + data.draw(BYTES) + content[end:]
    (tmp_path / "a.txt").write_bytes(content)
    refused_or_used(kind, tmp_path / "a.txt")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_table_of_sentences_with_anything_anywhere_is_used_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    content = b"video,track,sentence,start,end,split\nv,a,it runs,0,9,train\nv,a,it stops,,,\n"
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        content = content[:start] + data.draw(BYTES) + content[start + data.draw(st.integers(0, 4)) :]
    (tmp_path / "a.csv").write_bytes(content)
    with suppress(StvgError):
        read_sentences(tmp_path / "a.csv")
