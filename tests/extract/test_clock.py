"""Seconds come from time stamps: of any container, whatever rate it states and however its stamps run."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stvg.cache.schema import Video
from stvg.errors import VideoError
from stvg.extract.video.agreement import DisagreementError, examine
from stvg.extract.video.clock import Clock
from stvg.extract.video.decode import clock_of, probe, timing_of

from .test_decode import B_FRAMES, HEIGHT, RECIPES, WIDTH, delayed, numbered, read_numbers, write_video

PAUSE = [i if i < 30 else i + 600 for i in range(60)]
"""Stamps at 25 frames a second, with a pause of 24 s after 30 frames."""


def browser_recording(path: Path, milliseconds: list[int], codec: str = "libvpx") -> Path:
    """As a browser's MediaRecorder writes it: a clock of milliseconds, irregular steps and no rate."""
    with av.open(path, "w") as out:
        stream = out.add_stream(codec, rate=1000)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.options = {"deadline": "realtime", "cpu-used": "8"}
        for i, at in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(numbered(i, WIDTH, HEIGHT), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def irregular(count: int) -> list[int]:
    return np.cumsum([0, *np.random.default_rng(0).choice([16, 33, 34, 66], count - 1)]).tolist()


@pytest.mark.parametrize("look", [probe, timing_of])
@pytest.mark.parametrize("name", RECIPES)
def test_frames_are_shown_when_they_were_meant_to_be(name: str, look: Any, tmp_path: Path) -> None:
    recipe: dict[str, Any] = dict(RECIPES[name])
    count = recipe.pop("count", 60)
    stamp = recipe.get("pts", lambda i: i)
    found = look(write_video(tmp_path / name, count, **recipe))
    assert found.frames == count
    np.testing.assert_allclose(found.clock.starts, [stamp(i) / 25 for i in range(count)], atol=1e-3)
    assert found.clock.end == pytest.approx((stamp(count - 1) + 1) / 25, abs=0.09)
    assert found.fps == pytest.approx(count / found.clock.end, rel=0.021)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_pause_lasts_whatever_rate_the_container_states(suffix: str, tmp_path: Path) -> None:
    found = probe(write_video(tmp_path / f"a.{suffix}", 60, options=B_FRAMES, pts=PAUSE.__getitem__))
    assert found.fps == pytest.approx(60 / 26.4, rel=1e-3)
    assert found.clock.seconds(31) == pytest.approx(25.24, abs=2e-3)
    assert found.clock.seconds(29.5) == pytest.approx((1.16 + 25.2) / 2, abs=2e-3)
    assert found.clock.seconds(60) == found.clock.end == pytest.approx(26.4, abs=2e-3)


def test_a_guessed_rate_is_not_believed(tmp_path: Path) -> None:
    stamps = irregular(90)
    found = probe(browser_recording(tmp_path / "live.webm", stamps))
    assert found.fps == pytest.approx(90 / (stamps[-1] / 1000 + 0.033), rel=1e-3)


def test_an_edit_list_moves_the_first_frame_to_the_start(tmp_path: Path) -> None:
    keep_list = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    path = write_video(tmp_path / "a.mp4", 60, options=B_FRAMES, container_options=keep_list, packets=delayed(-7))
    for found in (probe(path), timing_of(path)):
        assert found.frames == 53
        np.testing.assert_allclose(found.clock.starts, np.arange(53) / 25, atol=1e-3)


JOINED: dict[str, dict[str, Any]] = {
    "h264.ts": {"options": B_FRAMES},
    "simple.ts": {"options": {"bf": "0"}},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2"}},
}


@pytest.mark.parametrize("later", [0, 900, 35], ids=["starts again", "leaps ahead", "goes on"])
@pytest.mark.parametrize("name", JOINED)
def test_a_capture_joined_of_two_has_the_frames_of_both_one_after_the_other(
    name: str, later: int, tmp_path: Path
) -> None:
    first = write_video(tmp_path / f"1{name}", 35, **JOINED[name])
    shifted = {**JOINED[name], "packets": delayed(later), "picture": lambda i, w, h: numbered(i + 35, w, h)}
    second = write_video(tmp_path / f"2{name}", 45, **shifted)
    (tmp_path / name).write_bytes(first.read_bytes() + second.read_bytes())
    for found in (probe(tmp_path / name), timing_of(tmp_path / name)):
        assert found.frames == 80
        np.testing.assert_allclose(found.clock.starts, np.arange(80) / 25, atol=0.09)
    assert read_numbers(tmp_path / name, range(80)) == list(range(80))


@pytest.mark.parametrize("packets", [1, 3, 8])
def test_a_broadcast_with_a_gap_in_it_is_still_refused(packets: int, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.ts", 60, options={"bf": "0", "g": "30"}).read_bytes()
    middle = len(whole) // 188 // 2 * 188
    (tmp_path / "gap.ts").write_bytes(whole[:middle] + whole[middle + packets * 188 :])
    with pytest.raises(VideoError, match="damaged"):
        probe(tmp_path / "gap.ts")


def test_a_counter_of_33_bits_may_overflow(tmp_path: Path) -> None:
    near_the_end = 2**33 * 25 // 90_000 - 20
    path = write_video(tmp_path / "a.ts", 60, options=B_FRAMES, packets=delayed(near_the_end))
    np.testing.assert_allclose(probe(path).clock.starts, np.arange(60) / 25, atol=1e-3)


def test_stamps_that_are_missing_or_equal_make_no_clock_or_one_from_the_others() -> None:
    missing = np.full(5, np.nan)
    assert Clock.of(missing, missing, 0) is None
    assert Clock.of(np.zeros(5), np.zeros(5), 0) is None
    assert Clock.of(np.array([]), np.array([]), 0) is None
    by_decoding = Clock.of(missing, np.arange(5) * 0.1, 0.1)
    by_neighbours = Clock.of(np.array([0, 0.1, np.nan, 0.3, 0.4]), missing, 0.1)
    for clock in (by_decoding, by_neighbours):
        assert clock is not None
        np.testing.assert_allclose(clock.starts, np.arange(5) * 0.1)
        assert clock.end == pytest.approx(0.5)


def test_a_file_with_another_number_of_frames_has_no_clock_of_the_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 20)
    assert len(clock_of(path, 20).starts) == 20
    with pytest.raises(VideoError, match="another number of frames"):
        clock_of(path, 21)


def annotated(path: Path, **changes: Any) -> Video:
    facts = probe(path)
    known = {"width": facts.width, "height": facts.height, "fps": facts.fps, "frame_count": facts.frames}
    return Video("v", path.name, **{**known, **changes})


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"frame_count": 30, "fps": 12.5}, "re-encoded at 25 frames per second instead of 12.5"),
        ({"frame_count": 120, "fps": 50}, "re-encoded at 25 frames per second instead of 50"),
        ({"frame_count": 61}, "found +208x48, 60 frames"),
        ({"width": 100}, "expected +100x48"),
        ({"fps": 30}, "plays at another rate"),
        ({"fps": 1000}, "plays at another rate"),
    ],
)
def test_a_file_that_is_not_as_annotated_is_refused(
    changes: dict[str, Any], says: str, whole: bool, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "a.mp4", 60, options=B_FRAMES)
    assert examine(path, annotated(path), False, whole) == []
    with pytest.raises(DisagreementError, match=says):
        examine(path, annotated(path, **changes), False, whole or "width" in changes)


def test_an_assumed_rate_is_warned_of_and_an_uneven_one_too(tmp_path: Path) -> None:
    even, uneven = write_video(tmp_path / "a.mp4"), write_video(tmp_path / "b.mkv", pts=PAUSE.__getitem__)
    assert "25 frames per second; 3 are assumed" in examine(even, annotated(even, fps=3), True, False)[0]
    assert "unevenly; the annotated 25 fit most" in examine(uneven, annotated(uneven, fps=25), False, False)[0]
    assert examine(uneven, annotated(uneven), False, False) == []
    with pytest.raises(DisagreementError, match="frames"):
        examine(even, annotated(even, frame_count=61), True, False)


def test_packets_that_are_no_frames_are_not_counted_as_such(tmp_path: Path) -> None:
    """VP8's invisible pictures have packets of their own: then frames are counted by decoding them."""
    hidden = {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5"}
    path = write_video(tmp_path / "a.webm", 90, codec="libvpx", options=hidden)
    assert probe(path).frames == 90
    assert examine(path, annotated(path, fps=25), False, False) == []
