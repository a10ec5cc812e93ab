"""Files of every kind end as the right frames, or as a BadClip with its reason; and no file is ever changed."""

import os

import av
import numpy as np
import pytest

from ray_distill.data.read import video
from ray_distill.data.read.clip import BadClip, Cut
from ray_distill.data.read.video import read_clip
from tests.unit.data import odd
from tests.unit.data.odd import probe

CODECS = {
    "h264.mp4": {},
    "h264.avi": {},
    "many keys.mp4": {"gop_size": 3},
    "hevc.mp4": {"codec": "libx265"},
    "open.mp4": {"codec": "libx265", "gop_size": 5},  # frames before a key frame refer to it
    "hevc10.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.mp4": {"codec": "libsvtav1"},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "odd.mkv": {"codec": "ffv1", "pix_fmt": "bgr0", "size": (97, 131)},
    "444.mkv": {"pix_fmt": "yuv444p"},
    "ten.mkv": {"pix_fmt": "yuv422p10le"},
    "few keys 'ü'.mp4": {"gop_size": 1000, "frames": 29},
}


@pytest.fixture
def read():
    """Read a clip by decord where it takes the file, or with ``only`` by PyAV."""

    def read(path, cut, only="decord"):
        return read_clip(str(path), cut, preferred=only)

    return read


@pytest.mark.parametrize("name", CODECS)
def test_frames_come_in_their_places(tmp_path, read, name):
    path = odd.write(tmp_path / name, **CODECS[name])
    for cut, numbers in [
        (Cut(12), list(range(12))),
        (Cut(3, stride=2, number=1), [6, 8, 10]),
        (Cut(12, fps=8), list(range(12))),
        (Cut(5, fps=4, number=0), [0, 2, 4, 6, 8]),
        (Cut(4, fps=16, number=1), [2, 2, 3, 3]),
    ]:
        clip, other = read(path, cut), read(path, cut, "pyav")
        assert odd.counted(clip.frames) == numbers, (cut, clip.decoder)
        assert np.array_equal(clip.frames, other.frames)
        assert np.abs(clip.frames[0, 20:28, 20:28].mean(axis=(0, 1)) - (200, 30, 30)).max() < 12


def test_what_the_header_says(tmp_path):
    told = probe(str(odd.write(tmp_path / "a.mp4", sample_aspect_ratio=2)))
    assert (told.height, told.width, told.pixel_aspect, told.plain) == (96, 128, 2, True)
    assert told.square_size == (96, 256) and told.seconds == pytest.approx(1.5) and told.rate == 8
    assert not probe(str(odd.write(tmp_path / "ten.mkv", pix_fmt="yuv420p10le"))).plain
    assert Cut(5).count(told) == 2 and Cut(4).count(told) == 3 and Cut(40).count(told) == 1


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_file_is_upright(tmp_path, read, turn):
    path = odd.write(tmp_path / "a.mp4", turn=turn, sample_aspect_ratio=2)
    plain = read(odd.write(tmp_path / "b.mp4", sample_aspect_ratio=2), Cut(3)).frames
    for only in ("decord", "pyav"):
        frames = read(path, Cut(3), only).frames
        assert np.array_equal(frames, np.rot90(plain, turn // 90, axes=(1, 2)))
    told = probe(str(path))
    assert (told.height, told.width) == frames.shape[1:3]
    assert told.pixel_aspect == (2 if turn == 180 else 0.5)


def test_a_file_of_varying_rate_is_read_by_its_clock(tmp_path, read):
    times = [0, 100, 160, 400, 460, 500, 1000, 1100, 1200, 1300, 2000, 2100]
    path = odd.write(tmp_path / "a.mp4", milliseconds=times)
    for only in ("decord", "pyav"):
        # At 10 frames a second: what is on the screen at 0, 100, 200 ... ms, give or take 50.
        numbers = odd.counted(read(path, Cut(11, fps=10), only).frames)
        assert numbers == [0, 1, 2, 2, 3, 5, 5, 5, 5, 5, 6]
        assert odd.counted(read(path, Cut(12), only).frames) == list(range(12))


@pytest.mark.parametrize("fps", [3, 5, 8, 12.5, 24, 30])
def test_rates_agree_with_ffmpegs_filter(tmp_path, fps):
    path = str(odd.write(tmp_path / "a.mp4", rate=12, frames=25))
    with av.open(path) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        nodes = graph.add_buffer(template=stream), graph.add("fps", str(fps)), graph.add("buffersink")
        graph.link_nodes(*nodes).configure()
        expected = []
        for frame in (*container.decode(stream), None):
            graph.push(frame)
            while True:
                try:
                    expected.append(graph.pull().to_ndarray(format="rgb24"))
                except (av.BlockingIOError, av.EOFError):
                    break
    frames = read_clip(path, Cut(len(expected), fps=fps)).frames
    assert odd.counted(frames) == odd.counted(np.stack(expected))
    with pytest.raises(BadClip, match=rf"lasts 2.08 s and .* s are needed at {fps:g} fps"):
        read_clip(path, Cut(len(expected) + 2, fps=fps))


def test_what_is_in_memory_at_once_is_bounded(tmp_path, read, monkeypatch):
    path = odd.write(tmp_path / "a.mp4")
    monkeypatch.setattr(video, "CHUNK", 4 * 96 * 128 * 3)
    sizes = []

    def fit(frames, told):
        sizes.append(len(frames))
        return frames[:, ::8, ::8]

    whole = read_clip(str(path), Cut(12), fit)
    assert whole.frames.shape == (12, 12, 16, 3) and max(sizes) <= 4 and odd.counted(whole.frames) == list(range(12))


def test_large_frames_are_pyavs(tmp_path, monkeypatch):
    path = str(odd.write(tmp_path / "a.mp4"))
    assert read_clip(path, Cut(3), preferred="decord").decoder == "decord"
    monkeypatch.setattr(video, "AHEAD", 250 * 3 * 96 * 128 - 1)
    assert read_clip(path, Cut(3), preferred="decord").decoder == "pyav"


def fifo(path):
    os.mkfifo(path)


def loop(path):
    path.symlink_to(path)


BAD = {
    "zero bytes": (lambda path: path.write_bytes(b""), "cannot be decoded"),
    "text": (lambda path: path.write_text("no video\n" * 99), "cannot be decoded"),
    "a folder": (lambda path: path.mkdir(), "no regular file"),
    "a fifo": (fifo, "no regular file"),
    "a loop of links": (loop, "no regular file"),
    "nothing": (lambda path: None, "no such file"),
    "sound alone": (odd.write_sound, "has no video stream"),
    "one frame": (lambda path: odd.write(path, frames=1), "has 1 frames and 2 are needed"),
    "HDR": (lambda path: odd.write(path, color_trc=16), r"is HDR \(PQ\); convert it to SDR"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_used_says_why(tmp_path, kind):
    make, reason = BAD[kind]
    path = tmp_path / "a b's ü.mp4"
    make(path)
    with pytest.raises(BadClip, match=reason) as caught:
        read_clip(str(path), Cut(2))
    assert caught.value.path == str(path)


def test_one_frame_is_enough_for_one(tmp_path, read):
    path = odd.write(tmp_path / "a.mp4", frames=1)
    assert odd.counted(read(path, Cut(1, fps=16)).frames) == odd.counted(read(path, Cut(1), "pyav").frames) == [0]
    with pytest.raises(BadClip, match="lasts"):
        read(path, Cut(2, fps=16))


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "h264.avi"])
@pytest.mark.parametrize("tenth", range(1, 10))
def test_truncated_files_give_right_frames_or_none(tmp_path, name, tenth):
    path = odd.write(tmp_path / name, **CODECS[name])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * tenth // 10])
    before = path.read_bytes()
    try:
        numbers = odd.counted(read_clip(str(path), Cut(6)).frames)
        assert numbers == list(range(6))
    except BadClip as bad:
        assert bad.reason
    assert path.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="Linux alone has these policies")
def test_a_file_of_av1_leaves_the_process_its_priority(tmp_path):
    """SVT-AV1 as root would leave it at real time, where it starves whatever else runs here."""
    before = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    odd.write(tmp_path / "a.mp4", "libsvtav1", frames=2)
    assert (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) == before
