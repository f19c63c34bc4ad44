"""What is exported for another tool and imported again is what it was."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stvg.cache.schema import Sample, Video
from stvg.errors import UsageError
from stvg.extract.datasets.formats.exporting import export_dataset
from stvg.extract.datasets.formats.importing import import_dataset
from stvg.extract.datasets.readers import read_annotations

from .tool_exports import drawn_videos

WIDTH, HEIGHT = 160, 120
PATH = {"mot": "", "coco-vid": "annotations.json"}
"""What an export is imported by, seen from its folder."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, one in a folder, with 63 and 52 frames."""
    folder = tmp_path_factory.mktemp("videos")
    drawn_videos(folder, 2)
    (folder / "a trip").mkdir()
    (folder / "scene1.mp4").rename(folder / "a trip/day 1.mp4")
    return folder


FILES = {"scene0": ("scene0.mp4", 63), "a trip/day 1": ("a trip/day 1.mp4", 52)}
SIDE = st.integers(1, 30_000).map(lambda n: n / 1000)
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(str.strip)


@st.composite
def annotations(draw: st.DrawFn) -> dict[str, Any]:
    """A file in the json format: objects with runs of boxes, and sentences about parts of them."""
    samples: list[dict[str, Any]] = []
    for video, (_, count) in FILES.items():
        for target in range(draw(st.integers(0, 2))):
            start = draw(st.integers(0, count - 2))
            end = draw(st.integers(start + 1, count))
            corners = st.tuples(st.integers(-9_000, 150_000), st.integers(-9_000, 110_000))
            boxes = {}
            for frame in range(start, end):
                (x, y), width, height = draw(corners), draw(SIDE), draw(SIDE)
                x, y = max(x / 1000, 0.001 - width), max(y / 1000, 0.001 - height)
                boxes[str(frame)] = [round(v, 3) for v in (x, y, x + width, y + height)]
            for _ in range(draw(st.integers(1, 2))):
                begin = draw(st.integers(start, end - 1))
                finish = draw(st.integers(begin + 1, end))
                named = {"id": f"sample {len(samples)}", "video": video, "target": f"object {target}", "boxes": boxes}
                told = {"sentence": draw(TEXT), "type": draw(st.sampled_from(["all", "question"]))}
                clip = draw(st.sampled_from([None, [begin, finish], [0, finish]]))
                samples.append({**named, **told, "moment": [begin, finish], **({"segment": clip} if clip else {})})
    known = {
        name: {"file": file, "width": WIDTH, "height": HEIGHT, "fps": 10, "frame_count": count}
        for name, (file, count) in FILES.items()
    }
    return {"videos": known, "samples": samples}


def comparable(samples: Iterable[Sample]) -> list[Any]:
    """Everything of samples but the names of targets, of which only counts which samples share one."""
    names: dict[tuple[str, str], int] = {}
    return [
        (
            str(s.sample_id), s.video, s.sentence, s.qtype, s.split, s.segment, s.moment, s.boxes.tolist(),
            names.setdefault((s.video.video_id, s.target_id), len(names)),
        )
        for s in samples
    ]  # fmt: skip


@pytest.mark.parametrize("kind", PATH)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(content=annotations())
def test_an_export_that_is_imported_gives_the_same_samples(
    kind: str, content: dict[str, Any], videos: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("data")
    (folder / "val.json").write_text(json.dumps(content), encoding="utf-8")
    before = read_annotations("json", folder, "val", for_scoring=True).samples
    if not before:
        with pytest.raises(UsageError, match="no sample to export"):
            export_dataset(before, kind, folder / "out")
        return
    export_dataset(before, kind, folder / "out")
    path, sentences = folder / "out" / PATH[kind], folder / "out/sentences.csv"
    report = import_dataset(kind, path, videos, folder / "again", sentences=sentences)
    assert report.faults == []
    after = read_annotations("json", folder / "again", "val", for_scoring=True).samples
    assert comparable(after) == comparable(before)


@pytest.mark.parametrize("kind", PATH)
def test_the_folder_of_an_export_is_imported_as_it_stands(
    stvg: Any, kind: str, synthetic: Path, tmp_path: Path
) -> None:
    words = ("--dataset", "vidstg", "--annotations", synthetic, "--split", "test", "--out", tmp_path / "out")
    assert stvg("dataset", "export", *words, "--format", kind).code == 0
    words = ("--format", kind, "--videos", synthetic / "vidor/video", "--out", tmp_path / "again")
    ran = stvg("dataset", "import", tmp_path / "out", *words)
    assert ran.code == 0, ran.err
    assert f"the sentences are those of {tmp_path / 'out/sentences.csv'}" in ran.out
    before, after = read_annotations("vidstg", synthetic, "test"), read_annotations("json", tmp_path / "again", "test")
    assert [(s.sentence, s.moment) for s in after.samples] == [(s.sentence, s.moment) for s in before.samples]


@pytest.mark.parametrize(("names", "says"), [((), "holds 0 JSON files"), (("b.json", "a.json"), "a.json, b.json")])
def test_a_folder_of_several_json_files_or_none_is_refused(
    stvg: Any, names: tuple[str, ...], says: str, synthetic: Path, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    words = ("--format", "coco-vid", "--videos", synthetic / "vidor/video", "--out", tmp_path / "again")
    ran = stvg("dataset", "import", tmp_path, *words)
    assert ran.code == 1
    assert says in ran.err


@pytest.mark.parametrize("kind", PATH)
def test_a_vidstg_split_goes_out_and_comes_back(stvg: Any, kind: str, synthetic: Path, tmp_path: Path) -> None:
    words = ("--dataset", "vidstg", "--annotations", synthetic, "--split", "test", "--out", tmp_path / "out")
    ran = stvg("dataset", "export", *words, "--format", kind)
    assert ran.code == 0, ran.err
    before = read_annotations("vidstg", synthetic, "test").samples
    assert f"{len(before)} sentences" in ran.out
    videos = synthetic / "vidor/video"
    sentences = tmp_path / "out/sentences.csv"
    import_dataset(kind, tmp_path / "out" / PATH[kind], videos, tmp_path / "again", sentences=sentences)
    after = read_annotations("json", tmp_path / "again", "test").samples
    assert [s.moment for s in after] == [s.moment for s in before]
    assert [s.segment for s in after] == [s.segment for s in before]
    assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(after, before, strict=True))
    assert stvg("dataset", "export", *words, "--format", kind).code == 1


def test_which_of_several_splits_is_meant_must_be_said(stvg: Any, synthetic: Path, tmp_path: Path) -> None:
    words = ("--dataset", "vidstg", "--annotations", synthetic, "--out", tmp_path / "out", "--format", "mot")
    ran = stvg("dataset", "export", *words)
    assert ran.code == 1
    assert "--split train" in ran.err


def test_what_an_import_would_not_see_as_it_is_here_is_said(tmp_path: Path) -> None:
    boxes = np.full((8, 4), np.nan)
    boxes[[0, 1, 2, 6, 7]] = [0, 0, 9, 9]
    video = Video("scene0", "scene0.mp4", WIDTH, HEIGHT, 10.0, 7)
    said = export_dataset([Sample(1, video, "a thing", "all", "train", (0, 7), (0, 8), boxes)], "mot", tmp_path / "out")
    assert any("1 moment cut at the end of the video: 1" in line for line in said)
    assert any("frames without a box, at most 3 in a row: 1; --bridge 3" in line for line in said)
