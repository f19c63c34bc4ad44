"""A dataset is a file and a row: the command line, the folders and the checks learn of it from there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stvg.extract.datasets.folders import default_video_folder, find_splits
from stvg.extract.datasets.readers import read_annotations
from stvg.extract.datasets.table import DATASETS, Dataset, published_sentences
from stvg.extract.video.agreement import rate_is_assumed

READER = """
import numpy as np
from stvg.cache.schema import Sample, Video
from stvg.extract.datasets.validate import Fields

def read(file, reading):
    samples, records = [], reading.load(file)
    reading.records = len(records)
    for i, record in enumerate(records):
        with reading.record():
            where = Fields.of(record, file, i)
            video = Video(f"{i}", where.text("file"), 64, 48, 10.0, where.integer("frames", 1))
            boxes = np.tile([1.0, 2.0, 30.0, 40.0], (video.frame_count, 1))
            span = (0, video.frame_count)
            sample = Sample(i, video, where.sentence("says"), "all", reading.split, span, span, boxes)
            if reading.admit(where, sample, "frames", "file"):
                samples.append(sample)
    return samples
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset nobody knew of, and a folder of it."""
    (tmp_path / "my_reader_of_films.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path)
    row = Dataset(
        "films",
        reader="my_reader_of_films:read",
        splits={"dev": ("dev_films.json",)},
        folder="films",
        videos=("reels",),
        sentences={"dev": 3},
        rate_is_assumed=True,
    )
    monkeypatch.setitem(DATASETS, "films", row)
    folder = tmp_path / "data" / "films"
    (folder / "reels").mkdir(parents=True)
    (folder / "dev_films.json").write_text(
        '[{"file": "a.mp4", "frames": 30, "says": "a dog"}, {"file": "b.mp4", "says": "a cat"}]'
    )
    yield folder
    sys.modules.pop("my_reader_of_films", None)


def test_a_row_and_a_file_make_a_dataset(mine, stvg):
    ran = stvg("dataset", "check", "--dataset", "films", "--annotations", mine.parent)
    assert ran.code == 1
    assert "1 sentence (1 all) in 2 records" in ran.out
    assert "fault 1" in ran.out
    assert "1 sentence in films dev; the published split has 3" in ran.out
    assert find_splits("films", mine) == ["dev"]
    assert default_video_folder("films", mine / "dev_films.json") == mine / "reels"
    assert rate_is_assumed("films")
    assert published_sentences("films", "dev") == 3
    read = read_annotations("films", mine, "dev", on_bad_record="skip")
    assert [s.sentence for s in read.samples] == ["a dog"]


def test_the_command_line_lists_the_table(mine, stvg):
    for words in (["dataset", "check"], ["extract"], ["evaluate"]):
        ran = stvg(*words, "--dataset", "nonsense")
        assert ran.code == 2
        assert "films" in ran.err


@pytest.mark.parametrize("name", DATASETS)
def test_every_row_names_functions_that_are_there(name):
    from pkgutil import resolve_name

    row = DATASETS[name]
    assert all(callable(resolve_name(f)) for f in (row.reader, row.box_folders, row.synthetic) if f)
    assert not row.sentences or row.sentences.keys() <= row.splits.keys()
