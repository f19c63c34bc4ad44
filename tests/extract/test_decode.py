"""Frames carry their own number, written into the pixels as twelve black or white squares."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stvg.errors import VideoError
from stvg.extract.video.decode import Orientation, probe, read_frames

BITS, SQUARE = 12, 16
WIDTH, HEIGHT = 208, 48
LONG_ENOUGH = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def numbered(number: int, width: int, height: int) -> np.ndarray:
    picture = np.full((height, width, 3), 128, np.uint8)
    for bit in range(BITS):
        picture[:SQUARE, bit * SQUARE : (bit + 1) * SQUARE] = 255 * (number >> bit & 1)
    picture[height // 2 :, : width // 2] = (200, 30, 30)  # tells top from bottom and left from right
    return picture


def numbers(frames: np.ndarray) -> list[int]:
    centres = np.arange(BITS) * SQUARE + SQUARE // 2
    return ((frames[:, SQUARE // 2, centres, 0] > 128) << np.arange(BITS)).sum(1).tolist()


def read_numbers(path: Path, frames: Iterable[int], width: int = WIDTH, height: int = HEIGHT, **kw: Any) -> list[int]:
    blocks = read_frames(path, np.fromiter(frames, np.int64), width=width, height=height, **kw)
    return [n for block in blocks for n in numbers(block)]


def write_video(
    path: Path,
    count: int = 60,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pix_fmt: str = "yuv420p",
    pts: Callable[[int], int] = lambda i: i,
    container_options: dict[str, str] | None = None,
    packets: Callable[[list[av.Packet]], list[av.Packet]] = lambda packets: packets,
    picture: Callable[[int, int, int], np.ndarray] = numbered,
    rotation: int = 0,
) -> Path:
    with av.open(path, "w", options=container_options or {}) as out:
        stream = out.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = Fraction(1, 25)
        if rotation:
            stream.set_display_rotation(rotation)
        made = []
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")
            frame.pts, frame.time_base = pts(i), Fraction(1, 25)
            made += stream.encode(frame)
        for packet in packets(made + stream.encode(None)):
            out.mux(packet)
    return path


def delayed(by: int) -> Callable[[list[av.Packet]], list[av.Packet]]:
    def shift(packets: list[av.Packet]) -> list[av.Packet]:
        for packet in packets:
            packet.pts, packet.dts = packet.pts + by, packet.dts + by
        return packets

    return shift


B_FRAMES = {"bf": "3", "g": "12"}
RECIPES: dict[str, dict[str, Any]] = {
    "bframes.mp4": {"options": B_FRAMES},
    "open_gop.mp4": {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}},
    "variable_rate.mp4": {"options": B_FRAMES, "pts": lambda i: i * 3 + (i * i) % 7 // 3},
    "late_start.mp4": {"options": B_FRAMES, "packets": delayed(900)},
    "fragmented.mp4": {"options": B_FRAMES, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "dropped.avi": {"codec": "mpeg4", "pts": lambda i: i + i // 5},
    "bframes.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "bframes.mkv": {"options": B_FRAMES},
    "bframes.ts": {"options": B_FRAMES},
    "bframes.flv": {"options": B_FRAMES},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=12:bframes=3"}, "count": 30},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}, "count": 30},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2"}},
}


@pytest.fixture(scope="module")
def bframes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("decode") / "b.mp4", 60, options=B_FRAMES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_frame_number_is_the_picture_it_names(name: str, tmp_path: Path) -> None:
    recipe = dict(RECIPES[name])
    count = recipe.pop("count", 60)
    path = write_video(tmp_path / name, count, **recipe)
    assert probe(path).frames == count
    assert read_numbers(path, range(count)) == list(range(count))
    assert read_numbers(path, range(1, count, 7)) == list(range(1, count, 7))


@LONG_ENOUGH
@given(st.sets(st.integers(0, 59), min_size=1), st.integers(1, 70), st.sampled_from([1, 3]))
def test_any_choice_of_frames_comes_in_order_and_in_blocks(
    bframes: Path, chosen: set[int], block: int, threads: int
) -> None:
    wanted = np.array(sorted(chosen))
    blocks = list(read_frames(bframes, wanted, width=WIDTH, height=HEIGHT, block=block, threads=threads))
    assert [len(b) for b in blocks[:-1]] == [block] * (len(blocks) - 1)
    assert numbers(np.concatenate(blocks)) == wanted.tolist()


@LONG_ENOUGH
@given(cut=st.floats(0.02, 0.999), name=st.sampled_from(["faststart.mp4", "fragmented.mp4", "bframes.avi"]))
def test_a_truncated_file_gives_right_frames_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, cut: float, name: str
) -> None:
    recipes = {**RECIPES, "faststart.mp4": {"options": B_FRAMES, "container_options": {"movflags": "+faststart"}}}
    folder = tmp_path_factory.getbasetemp() / "truncated"
    folder.mkdir(exist_ok=True)
    whole = folder / name
    if not whole.exists():
        write_video(whole, **recipes[name])
    path = folder / f"cut_{name}"
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * cut)])
    got: list[int] = []
    refused = False
    try:
        for block in read_frames(path, np.arange(60), width=WIDTH, height=HEIGHT, block=1):
            got += numbers(block)
    except VideoError:
        refused = True
    assert got == list(range(len(got)))
    assert refused or len(got) == 60  # an AVI can lose its index and keep its pictures


@pytest.mark.parametrize(
    ("name", "width", "height"), [("nonsquare_pixels_28fps.mp4", 340, 256), ("mpeg4_bag.avi", 480, 360)]
)
@pytest.mark.parametrize("threads", [1, 4])
def test_scrambled_bytes_are_refused_not_concealed(
    name: str, width: int, height: int, threads: int, shared: Path, tmp_path: Path
) -> None:
    data, draw = (shared / "real" / "nasty" / name).read_bytes(), random.Random(0)
    path = tmp_path / name
    for _ in range(5):
        start = draw.randrange(len(data) // 8, len(data) // 2)
        path.write_bytes(data[:start] + draw.randbytes(5000) + data[start + 5000 :])
        blocks = read_frames(path, np.arange(196), width=width, height=height, threads=threads)
        with pytest.raises(VideoError, match=r"damaged|ends early"):
            list(blocks)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv"])
def test_a_cut_at_an_open_group_of_pictures_never_misnumbers_frames(name: str, tmp_path: Path) -> None:
    def from_second_key_frame(packets: list[av.Packet]) -> list[av.Packet]:
        second = [i for i, packet in enumerate(packets) if packet.is_keyframe][1]
        return packets[second:]

    open_gop = {**RECIPES["open_gop.mp4"], "packets": from_second_key_frame}
    path = write_video(tmp_path / name, 60, **open_gop)
    if name.endswith("mp4"):  # its edit list hides the leading pictures, which lack their reference
        assert probe(path).frames == 48
        assert read_numbers(path, range(48)) == list(range(12, 60))
    else:
        with pytest.raises(VideoError, match="damaged"):
            probe(path)


def test_more_threads_do_not_change_a_pixel(bframes: Path) -> None:
    one, many = (
        np.concatenate(list(read_frames(bframes, np.arange(60), width=WIDTH, height=HEIGHT, threads=n))) for n in (1, 5)
    )
    assert np.array_equal(one, many)


def test_asking_past_the_end_names_what_was_asked_and_found(bframes: Path) -> None:
    blocks = read_frames(bframes, np.array([3, 61]), width=WIDTH, height=HEIGHT, block=1)
    assert numbers(next(blocks)) == [3]
    with pytest.raises(VideoError, match="ends early") as caught:
        next(blocks)
    assert caught.value.facts["asked"] == "frames up to 61"
    assert caught.value.facts["found"] == "60 frames decode"
    assert caught.value.facts["effect"] == "nothing was padded or guessed"


def test_an_edit_list_hides_frames_as_it_does_in_every_player(tmp_path: Path) -> None:
    keep_list = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    path = write_video(tmp_path / "trimmed.mp4", 60, options=B_FRAMES, container_options=keep_list, packets=delayed(-7))
    assert probe(path).frames == 53
    assert read_numbers(path, range(53)) == list(range(7, 60))


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), [("a.avi", "mpeg4", "yuv420p"), ("a.mkv", "ffv1", "yuv444p")])
def test_odd_sizes_lose_no_row_or_column(name: str, codec: str, pix_fmt: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, 5, codec=codec, pix_fmt=pix_fmt, size=(321, 241))
    (block,) = read_frames(path, np.arange(5), width=321, height=241)
    assert block.shape == (5, 241, 321, 3)
    assert numbers(block) == [0, 1, 2, 3, 4]
    expected = numbered(0, 321, 241).astype(int)
    assert np.abs(block[0] - expected)[-1].mean() < 4
    assert np.abs(block[0] - expected)[:, -1].mean() < 4


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
def test_rotation_metadata_turns_pixels_upright(quarter_turns: int, tmp_path: Path) -> None:
    def turned(number: int, *_: int) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(numbered(number, WIDTH, HEIGHT), quarter_turns))

    stored = turned(0).shape[1::-1]
    path = write_video(tmp_path / "turned.mp4", 6, size=stored, picture=turned, rotation=-90 * quarter_turns)
    found = probe(path)
    assert (found.width, found.height, found.rotation) == (WIDTH, HEIGHT, 90 * quarter_turns)
    (block,) = read_frames(path, np.arange(6), width=WIDTH, height=HEIGHT)
    assert numbers(block) == list(range(6))
    assert np.abs(block[0].astype(int) - numbered(0, WIDTH, HEIGHT)).mean() < 6
    if quarter_turns % 2:
        with pytest.raises(VideoError, match="another size") as caught:
            next(read_frames(path, np.arange(1), width=HEIGHT, height=WIDTH))
        assert f"turned {90 * quarter_turns} degrees clockwise" in caught.value.facts["found"]


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("flip_rows", [False, True])
@pytest.mark.parametrize("flip_columns", [False, True])
def test_rotation_of_every_orientation_agrees_with_its_pixels(
    transpose: bool, flip_rows: bool, flip_columns: bool
) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    turn = Orientation(transpose, flip_rows, flip_columns)
    rotated = np.rot90(pixels, -turn.rotation // 90)
    upright = turn.apply(pixels)
    assert np.array_equal(upright, rotated) or np.array_equal(upright, rotated[:, ::-1])


@pytest.mark.parametrize(("tag", "limit"), [("ITU709", 12), ("ITU601", 12)])
def test_colours_survive_either_colour_matrix(tag: str, limit: int, tmp_path: Path) -> None:
    colours = np.array([[200, 40, 40], [40, 180, 60], [50, 60, 210], [220, 210, 60]], np.uint8)
    picture = np.repeat(np.repeat(colours[None], 48, 0), 32, 1)
    with av.open(tmp_path / "c.mp4", "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"qp": "4"})
        stream.width, stream.height, stream.pix_fmt = 128, 48, "yuv420p"
        stream.codec_context.colorspace = {"ITU709": 1, "ITU601": 6}[tag]
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p", dst_colorspace=tag)
        for packet in stream.encode(frame) + stream.encode(None):
            out.mux(packet)
    (block,) = read_frames(tmp_path / "c.mp4", np.arange(1), width=128, height=48)
    assert np.abs(block[0, 24, 16::32].astype(int) - colours).max() <= limit


def test_no_frames_wanted_gives_no_block_and_opens_nothing(tmp_path: Path) -> None:
    assert list(read_frames(tmp_path / "missing.mp4", np.array([], np.int64), width=1, height=1)) == []


@pytest.mark.parametrize("frames", [[1, 1], [2, 1], [-1, 0], [[0, 1]]])
def test_frames_that_do_not_ascend_are_a_callers_mistake(bframes: Path, frames: list[int]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        read_frames(bframes, np.array(frames), width=WIDTH, height=HEIGHT)


def test_what_is_not_a_file_of_moving_pictures_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "listing.mp4").write_text("#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1/a.ts\n")
    (tmp_path / "lines.txt").write_text("1.0,2.0,3.0\n" * 200)
    with av.open(tmp_path / "picture.png", "w", format="image2") as out:
        stream = out.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24"
        still = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in stream.encode(still) + stream.encode(None):
            out.mux(packet)
    reasons = {
        "missing.mp4": "does not exist",
        ".": "not a regular file",
        "fifo.mp4": "not a regular file",
        "empty.mp4": "is empty",
        "listing.mp4": "can be opened",
        "lines.txt": "can be opened",
        "picture.png": "can be opened",
    }
    for name, reason in reasons.items():
        for look in (probe, lambda path: next(read_frames(path, np.arange(1), width=32, height=32))):
            with pytest.raises(VideoError, match=reason):
                look(tmp_path / name)


REAL = {
    "nasty/vfr_1080p.mp4": (1920, 1080, 2160 / 77, 72, 0),
    "nasty/rotate90_metadata.mov": (320, 568, 30, 3, 90),
    "nasty/portrait_270x480_sar406x405_16fps.mp4": (270, 480, 16.12, 721, 0),
    "nasty/nonsquare_pixels_28fps.mp4": (340, 256, 28, 280, 0),
    "nasty/fps_19_62_audio.mp4": (320, 240, 19.62, 355, 0),
    "nasty/mpeg4_bframes_audio.avi": (320, 240, 25, 164, 0),
    "nasty/mpeg4_bag.avi": (480, 360, 25, 196, 0),
    "nasty/hevc_128x128_10fps.mp4": (128, 128, 10, 10, 0),
    "vidor_videos/1012/8670554760.mp4": (640, 360, 30000 / 1001, 332, 0),
    "vidstg_vidor/vidor/video/1010/8665030691.mp4": (640, 362, 30000 / 1001, 830, 0),
}


@pytest.mark.parametrize("name", REAL)
def test_real_videos_have_the_frames_they_are_known_to_have(name: str, shared: Path) -> None:
    width, height, fps, frames, rotation = REAL[name]
    found = probe(shared / "real" / name)
    assert (found.width, found.height, found.frames, found.rotation) == (width, height, frames, rotation)
    assert found.fps == pytest.approx(fps, abs=5e-3)
    quick = probe(shared / "real" / name, count_frames=False)
    assert (quick.frames, quick.fps) == (frames, found.fps)
    (ends,) = read_frames(shared / "real" / name, np.array([0, frames - 1]), width=width, height=height)
    assert ends.shape == (2, height, width, 3)
    assert ends.std() > 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nasty/corrupt/truncated_60pct.mp4", "can be opened"),
        ("nasty/corrupt/truncated_60pct_faststart.mp4", "cut short"),
        ("nasty/corrupt/zero_bytes.mp4", "empty"),
        ("nasty/corrupt/text_renamed.mp4", "can be opened"),
        ("nasty/corrupt/audio_only.mp4", "no moving picture"),
        ("nasty/corrupt/lfs_pointer_resnet18-5c106cde.pth", "can be opened"),
        ("nasty/mpeg4_bag_groundtruth.txt", "can be opened"),
    ],
)
def test_real_files_without_sound_video_are_refused_quietly(
    name: str, reason: str, shared: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(VideoError, match=reason):
        probe(shared / "real" / name)
    assert capfd.readouterr() == ("", "")


def test_a_real_truncated_file_still_gives_the_frames_before_the_cut(shared: Path) -> None:
    whole, cut = (
        shared / "real/nasty" / n for n in ("nonsquare_pixels_28fps.mp4", "corrupt/truncated_60pct_faststart.mp4")
    )
    (right,) = read_frames(whole, np.arange(0, 150, 5), width=340, height=256)
    (found,) = read_frames(cut, np.arange(0, 150, 5), width=340, height=256)
    assert np.array_equal(right, found)
