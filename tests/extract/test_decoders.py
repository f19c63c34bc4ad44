"""Decoding in other processes: the pixels are those decoded here, and a process that dies, hangs or swells harms nobody."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from stvg.cache.schema import Video
from stvg.cache.view import Crop, View
from stvg.errors import StvgError, VideoError
from stvg.extract.synthetic.drawing import write_video
from stvg.extract.transforms import apply_view
from stvg.extract.video.channel import DecodeJob
from stvg.extract.video.decode import read_frames
from stvg.extract.video.decoders import Block, Decoder, Decoders, End, Settings

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
SIZE = (96, 64)
ONE_SLOT = Settings(slots=1, slot_bytes=2**18)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three short videos of noise."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for i in range(3):
        pictures = rng.integers(0, 256, (40, SIZE[1], SIZE[0], 3), dtype=np.uint8)
        write_video(folder / f"{i}.mp4", pictures, Fraction(25))
    return [folder / f"{i}.mp4" for i in range(3)]


def job(file, views=None, size=SIZE, frames=40):
    return DecodeJob(file.stem, file, np.arange(0, frames, 2), *size, views or [View(*SIZE, 60, 40)], MEAN, STD)


def run(settings, jobs, upon=lambda decoders, event: None):
    """What comes of some jobs: per video its frames, and its error."""
    pixels, errors = {}, {}
    with Decoders(settings) as decoders:
        for event in decoders.decode(iter(jobs)):
            name = event.job.video_id
            if isinstance(event, Block):
                found = pixels.setdefault(name, [[] for _ in event.pixels])
                assert event.start == sum(map(len, found[0]))
                for k, block in enumerate(event.pixels):
                    found[k].append(block.copy())
            else:
                assert name not in errors
                errors[name] = event.error
            upon(decoders, event)
    return {v: [np.concatenate(view) for view in found] for v, found in pixels.items()}, errors


@pytest.mark.parametrize("processes", [1, 2])
def test_pixels_are_those_decoded_in_this_process_through_every_view(videos, processes):
    views = [View(*SIZE, 60, 40), View(*SIZE, 33, 50, Crop(80, 70, 5, 6, 40, 60))]
    settings = Settings(processes=processes, slots=2, slot_bytes=200_000)
    pixels, errors = run(settings, [job(v, views) for v in videos])
    assert errors == dict.fromkeys(["0", "1", "2"])
    for file in videos:
        frames = np.concatenate(list(read_frames(file, np.arange(0, 40, 2), width=SIZE[0], height=SIZE[1])))
        for k, view in enumerate(views):
            expected = apply_view(frames, view, MEAN, STD).permute(0, 2, 3, 1).numpy()
            assert np.array_equal(pixels[file.stem][k], expected)


def upon_first_block_of_zero(harm):
    """Do something to the process while it waits for room for the next block."""

    def act(decoders, event):
        if isinstance(event, Block) and event.job.video_id == "0" and event.start == 0:
            harm(decoders.team[0].process.pid)

    return act


@pytest.mark.parametrize("deadly", [signal.SIGSEGV, signal.SIGKILL], ids=["SIGSEGV", "SIGKILL"])
def test_a_decoder_that_dies_costs_its_video_only_and_is_replaced(videos, deadly):
    act = upon_first_block_of_zero(lambda pid: os.kill(pid, deadly))
    pixels, errors = run(ONE_SLOT, [job(v) for v in videos], act)
    assert isinstance(errors["0"], VideoError)
    assert videos[0].name in str(errors["0"])
    assert deadly.name in str(errors["0"])
    assert "8 frames decode" in str(errors["0"])
    assert errors["1"] is None
    assert [len(pixels[v][0]) for v in "12"] == [20, 20]


def test_a_decoder_that_hangs_costs_its_video_only_and_is_replaced(videos):
    settings = Settings(slots=1, slot_bytes=2**18, timeout=3)
    act = upon_first_block_of_zero(lambda pid: os.kill(pid, signal.SIGSTOP))
    pixels, errors = run(settings, [job(v) for v in videos[:2]], act)
    assert "takes too long" in str(errors["0"])
    assert "--decode-timeout" in str(errors["0"])
    assert errors["1"] is None
    assert len(pixels["1"][0]) == 20


SLOW = """
import time
from stvg.extract.video import decode, worker

def slowly(coded, stream, *rest, take=decode._decoded):
    for picture in take(coded, stream, *rest):
        time.sleep(0.08)
        yield picture

decode._decoded = slowly
worker.main()
"""
"""A decoder that needs 3.2 s for the 40 pictures of a video."""


def test_frames_passed_on_the_way_to_a_late_segment_are_progress(videos):
    settings = Settings(slot_bytes=2**18, timeout=2, program=(sys.executable, "-c", SLOW))
    late = replace(job(videos[0]), frames=np.array([39]))
    pixels, errors = run(settings, [late])
    assert errors == {"0": None}
    assert len(pixels["0"][0]) == 1


def test_the_alarm_of_a_process_is_put_off_by_frames_passed_and_ends_one_without_an_extractor(videos):
    patience_of_three_seconds = Settings(slot_bytes=2**18, timeout=0.5, program=(sys.executable, "-c", SLOW))
    late = replace(job(videos[0]), frames=np.array([39]))
    decoder = Decoder(patience_of_three_seconds)
    decoder.start(late)
    heard = []
    while not heard or not isinstance(heard[-1], tuple):
        heard.append(decoder.channel.recv())
    assert heard[0] is True
    assert 20 < max(heard[1:-1]) <= 40
    decoder.start(late)
    decoder.channel.close()
    assert decoder.process.wait(60) == 0


def test_a_file_is_compared_with_its_annotation_before_it_is_decoded(videos):
    video = Video("0", "0.mp4", *SIZE, 25, 40)
    jobs = [
        replace(job(videos[0]), annotated=video),
        replace(job(videos[1]), annotated=replace(video, frame_count=80, fps=50)),
        replace(job(videos[2]), annotated=replace(video, fps=2), rate_is_assumed=True),
    ]
    warnings = {}
    pixels, errors = run(ONE_SLOT, jobs, lambda _, event: warnings.update({event.job.video_id: event}))
    assert [errors["0"], errors["2"]] == [None, None]
    assert "re-encoded at 25 frames per second instead of 50" in str(errors["1"])
    assert sorted(pixels) == ["0", "2"]
    assert warnings["0"].warnings == []
    assert "25 frames per second; 2 are assumed" in warnings["2"].warnings[0]


def test_a_decoder_that_hangs_ends_when_its_extractor_is_gone(videos):
    hang = "import time; from stvg.extract.video import worker; worker.read_frames = lambda *_, **__: time.sleep(99); "
    hang += "worker.main()"
    decoder = Decoder(Settings(timeout=0.5, program=(sys.executable, "-c", hang)))
    decoder.start(job(videos[0]))
    assert decoder.channel.recv() is True
    decoder.channel.close()
    assert decoder.process.wait(60) == -signal.SIGALRM


def test_a_video_that_needs_more_memory_than_a_decoder_may_take_says_so(videos, tmp_path):
    size = (3000, 2000)  # 18 MB a frame
    huge = tmp_path / "huge.mp4"
    write_video(huge, np.zeros((16, size[1], size[0], 3), np.uint8), Fraction(5))
    settings = Settings(memory=3 * 2**27, slot_bytes=2**18)
    pixels, errors = run(settings, [job(huge, [View(*size, 60, 40)], size, 16), job(videos[1])])
    assert "memory" in str(errors["huge"])
    assert "huge" not in pixels
    assert errors["1"] is None
    assert len(pixels["1"][0]) == 20


def test_a_damaged_video_is_the_error_it_would_be_in_this_process(videos, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(videos[0].read_bytes()[:5000])
    with pytest.raises(VideoError) as here:
        list(read_frames(cut, np.arange(0, 40, 2), width=SIZE[0], height=SIZE[1]))
    _, errors = run(ONE_SLOT, [job(cut), job(videos[1])])
    assert str(errors["cut"]) == str(here.value)
    assert errors["1"] is None


def test_a_process_that_never_starts_is_no_fault_of_any_video(videos):
    with pytest.raises(StvgError, match="does not start"):
        run(Settings(program=(sys.executable, "-c", "raise SystemExit(3)")), [job(videos[0])])


def test_decoders_end_with_their_extractor(videos):
    with Decoders(Settings(processes=2)) as decoders:
        first = next(decoders.decode(iter([job(v) for v in videos])))
        assert isinstance(first, Block | End)
        processes = [d.process for d in decoders.team]
    assert all(p.returncode is not None for p in processes)
