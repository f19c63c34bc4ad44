"""`stvg dataset check`: counts, and every fault of annotations and videos, none of them raised."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stvg.cache.sampling import Sampling
from stvg.errors import UsageError, VideoError
from stvg.extract.datasets.check import check_dataset


def make_video(
    path: Path, frames: int = 30, fps: int = 10, size: tuple[int, int] = (64, 48), codec: str = "mpeg4"
) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        pictures = np.random.default_rng(0).integers(0, 255, (frames, size[1], size[0], 3), dtype=np.uint8)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def sample(number: int, video: str, **fields: object) -> dict[str, object]:
    boxes = {str(f): [1, 2, 30, 40] for f in range(5, 25)}
    return {"id": number, "video": video, "sentence": "it moves", "moment": [5, 25], "boxes": boxes, **fields}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six videos, of which one is as described, and three splits, of which one is not JSON."""
    videos = tmp_path / "videos"
    videos.mkdir()
    make_video(videos / "good.mp4")
    make_video(videos / "short.mp4", frames=29)
    make_video(videos / "wide.mp4", size=(80, 48))
    make_video(videos / "slow.mp4", fps=8)
    (videos / "text.mp4").write_text("not found")
    names = ["good", "short", "wide", "slow", "text", "gone"]
    described = {
        name: {"file": f"{name}.mp4", "width": 64, "height": 48, "fps": 10, "frame_count": 30} for name in names
    }
    train = [sample(n, name) for n, name in enumerate(names)]
    val = [sample(0, "good"), sample(1, "good", sentence=""), sample(2, "good", moment=[9, 9]), sample(3, "bad")]
    (tmp_path / "train.json").write_text(json.dumps({"videos": described, "samples": train}))
    (tmp_path / "val.json").write_text(json.dumps({"videos": described, "samples": val}))
    (tmp_path / "test.json").write_text("[")
    return tmp_path


def test_every_fault_is_listed_and_none_is_raised(dataset: Path) -> None:
    done: list[tuple[int, int]] = []
    report = check_dataset("json", dataset, videos=dataset / "videos", jobs=2, progress=lambda *told: done.append(told))
    text = "\n".join(report.lines())
    for complaint in (
        "val.json, record 1, sentence: not a text",
        "val.json, record 2, moment: not a span",
        "val.json, record 3, video: not among the file's videos",
        "test.json, line 1 column 2: not JSON",
        "short.mp4 differs from its annotation",
        "64x48, 29 frames",
        "wide.mp4 differs from its annotation",
        "80x48, 30 frames",
        "slow.mp4 plays at another rate",
        "text.mp4 is not a video",
        "gone.mp4 is not in the folder of videos",
    ):
        assert complaint in text
    assert "good.mp4" not in text
    assert len(report.faults) == 9
    assert text.endswith("9 faults")
    assert sum(isinstance(fault, VideoError) for fault in report.faults) == 5
    assert done == [(i, 5) for i in range(1, 6)]
    assert report.videos_opened == 4


def test_a_sound_dataset_has_no_faults_and_says_how_much_it_holds(dataset: Path) -> None:
    report = check_dataset("json", dataset, ["train"], sampling=Sampling(fps=5, max_frames=10))
    (counts,) = report.splits
    assert (counts.records, counts.sentences, counts.videos, counts.segments) == (6, 6, 6, 6)
    assert counts.qtypes == {"all": 6}
    assert (counts.frames_median, counts.frames_max, counts.thinned) == (10, 10, 1)
    assert report.lines()[-1] == "no faults"
    assert report.videos_opened is None


def test_videos_are_compared_whatever_the_number_of_jobs(dataset: Path) -> None:
    one, three = (check_dataset("json", dataset, ["train"], videos=dataset / "videos", jobs=n) for n in (1, 3))
    assert one.lines() == three.lines()
    with pytest.raises(UsageError, match="0 jobs"):
        check_dataset("json", dataset, ["train"], videos=dataset / "videos", jobs=0)


def test_what_extract_would_skip_is_a_fault_whatever_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that changes its size, a file that crashes its decoder, and one that never ends."""
    from stvg.extract.datasets import check
    from stvg.extract.video.decoders import Settings

    videos = tmp_path / "videos"
    videos.mkdir()
    make_video(videos / "grows.mpg", fps=25, codec="mpeg2video")
    make_video(tmp_path / "large.mpg", fps=25, size=(128, 96), codec="mpeg2video")
    with (videos / "grows.mpg").open("ab") as file:
        file.write((tmp_path / "large.mpg").read_bytes())
    make_video(videos / "good.mp4")
    names = ["grows.mpg", "good.mp4", "crashes.mp4", "hangs.mp4"]
    for name in names[2:]:
        shutil.copy(videos / "good.mp4", videos / name)
    described = {name: {"file": name, "width": 64, "height": 48, "fps": 10, "frame_count": 30} for name in names}
    train = [sample(n, name) for n, name in enumerate(names)]
    (tmp_path / "train.json").write_text(json.dumps({"videos": described, "samples": train}))
    hostile = """
import os, time
from stvg.extract.video import worker
ask = worker.examine
def examine(file, *rest):
    if file.name == "crashes.mp4": os.abort()
    if file.name == "hangs.mp4": time.sleep(99)
    return ask(file, *rest)
worker.examine = examine
worker.main()
"""
    program = (sys.executable, "-c", hostile)
    monkeypatch.setattr(check, "Settings", lambda processes: Settings(processes, timeout=3, program=program))
    report = check_dataset("json", tmp_path, videos=videos)
    said = [str(fault) for fault in report.faults]
    for fault, expected in zip(said, ["changes its size at", "crashes its decoder", "takes too long"], strict=True):
        assert expected in fault
    assert report.videos_opened == 1


def test_a_wrong_folder_of_videos_is_one_fault(dataset: Path) -> None:
    report = check_dataset("json", dataset, ["train"], videos=dataset / "nowhere")
    assert [type(fault) for fault in report.faults] == [UsageError]


def test_a_dataset_without_any_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no split of vidstg"):
        check_dataset("vidstg", tmp_path)


@pytest.mark.parametrize("name", ["vidstg_vidor", "vidstg_tracks"])
def test_real_vidor_videos_agree_with_their_annotations(shared: Path, name: str) -> None:
    folder = shared / "real" / name
    report = check_dataset("vidstg", folder, videos=folder / "vidor" / "video")
    assert not report.faults
    assert report.videos_opened == {"vidstg_vidor": 2, "vidstg_tracks": 3}[name]


def test_hcstvg_rates_that_differ_from_the_assumed_ones_are_warnings(shared: Path) -> None:
    folder = shared / "real" / "hcstvg"
    report = check_dataset("hcstvg-v1", folder, sampling=Sampling(fps=3), videos=folder / "videos")
    assert not report.faults
    assert report.videos_opened == 7
    played = [w for w in report.warnings if "plays at" in w]
    assert len(played) == 5
    assert any("5_Crossing.mp4 plays at 25 frames per second; 6 are assumed" in w for w in played)


def test_a_damaged_real_video_is_one_of_the_faults(shared: Path, tmp_path: Path) -> None:
    videos = shutil.copytree(shared / "real" / "hcstvg" / "videos", tmp_path / "videos")
    damaged = videos / "1_PETS09S2L1.mp4"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    report = check_dataset("hcstvg-v1", shared / "real" / "hcstvg", sampling=Sampling(fps=3), videos=videos)
    (fault,) = report.faults
    assert str(damaged) in fault.message
    assert report.videos_opened == 6


def test_the_published_val_split_has_the_clip_lengths_it_is_known_for(shared: Path) -> None:
    from stvg.extract.datasets.check import SplitCounts
    from stvg.extract.datasets.readers import read_annotations

    read = read_annotations("vidstg", shared / "real" / "vidstg", "val", boxes=False)
    counts = SplitCounts.of(read, Sampling())
    assert (counts.sentences, counts.videos, counts.segments) == (8_956, 602, 2_048)
    assert 70 <= counts.frames_median <= 80
    assert 0.33 <= counts.thinned <= 0.43


def test_commands_on_annotations_load_no_torch_which_takes_longer_than_their_work(
    synthetic: Path, tmp_path: Path
) -> None:
    videos, given = f"--videos {synthetic}/vidor/video", f"--dataset vidstg --annotations {synthetic}"
    commands = [
        f"check {given} {videos}",
        f"export {given} --split test --format mot --out {tmp_path}/mot",
        f"import {tmp_path}/mot --format mot {videos} --out {tmp_path}/again",
        f"new {synthetic}/vidor/video --out {tmp_path}/new",
    ]
    code = """
import sys
from stvg.cli import cli
for command in sys.argv[1:]:
    cli.main(["dataset", *command.split()], standalone_mode=False)
    assert "torch" not in sys.modules, command
"""
    subprocess.run([sys.executable, "-c", code, *commands], check=True, stdout=subprocess.DEVNULL)
