"""The sound of a clip: in step with its frames, at one rate, on two channels, and absent where the file has none."""

import numpy as np
import pytest

from ray_distill.data.read import sound
from ray_distill.data.read.clip import BadClip, Cut
from ray_distill.data.read.sound import read_sound
from ray_distill.data.read.track import Track
from ray_distill.data.read.video import read_clip, write_clip
from tests.unit.data.heard import FPS, click, write

RATE, FRAMES = 16_000, 17
FIRST, SECOND = Cut(FRAMES, fps=24.0), Cut(FRAMES, fps=24.0, number=1)
IRREGULAR = [*range(0, 300, 30), *range(300, 1300, 50)]
"""Milliseconds of frames: ten of 33 a second, then 20 a second; frame 10 comes at 0.3 s."""


def apart(path, cut=FIRST):
    """Seconds between the first white frame of a clip and the click in its sound."""
    light = read_clip(str(path), cut).frames.mean(axis=(1, 2, 3))
    samples = np.abs(np.nan_to_num(read_sound(str(path), cut, RATE)))
    assert light.max() > 200 and samples.max() > 0.2
    loud = np.flatnonzero(samples[0] > samples[0].max() / 2)
    return loud[0] / RATE - np.flatnonzero(light > 128)[0] / 24


def missing(path, cut=FIRST):
    """The shares of a clip's first and second half in which its file has no sound."""
    samples = read_sound(str(path), cut, RATE)
    assert samples.shape == (2, round(FRAMES / 24 * RATE)) and np.array_equal(*np.isnan(samples))
    return tuple(half.mean() for half in np.array_split(np.isnan(samples[0]), 2))


@pytest.mark.parametrize(
    ("name", "channels", "how"),
    [
        ("a.mp4", 2, {}),
        ("a.mp4", 1, {"rate": 44_100}),
        ("a.mp4", 2, {"codec": "mp3"}),
        ("a.mkv", 1, {"codec": "libopus"}),
        ("a.mkv", 6, {"codec": "ac3"}),
        ("a.mkv", 2, {"codec": "flac", "rate": 16_000}),
        ("a.avi", 1, {"codec": "pcm_s16le", "rate": 22_050}),
        ("a.ts", 2, {"codec": "mp2"}),
        ("a.mov", 1, {"codec": "pcm_f32le", "rate": 8_000}),
    ],
)
def test_a_click_is_heard_when_its_frame_is_shown(tmp_path, name, channels, how):
    path = write(tmp_path / name, click(1.25, 10 / FPS, how.get("rate", 48_000), channels), **how)
    assert abs(apart(path)) < 0.002  # a token of sound lasts 0.04 s
    assert missing(path)[0] < 0.01


def test_each_clip_of_a_file_has_its_own_seconds(tmp_path):
    path = write(tmp_path / "a.mp4", click(2, 22 / FPS), white=22, frames=48)
    assert abs(apart(path, SECOND)) < 0.001
    first, second = (read_sound(str(path), cut, RATE) for cut in (FIRST, SECOND))
    assert np.abs(first).max() < 0.1 and np.abs(second).argmax() // 100 == round(5 / 24 * RATE) // 100


@pytest.mark.parametrize(
    ("how", "at"),
    [
        ({"milliseconds": IRREGULAR}, 0.3),
        ({"milliseconds": [500 + time for time in IRREGULAR]}, 0.8),  # the picture begins later than the sound
        ({"begins": 0.1}, 10 / FPS),  # and the sound later than the picture
    ],
)
def test_times_count_and_not_the_numbers_of_frames(tmp_path, how, at):
    path = write(tmp_path / "a.mkv", click(2.5, at - how.get("begins", 0)), codec="flac", **how)
    assert (
        abs(apart(path)) <= 1 / 48 + 0.002
    )  # a frame at 24 a second begins up to half a frame before its time or after
    assert abs(missing(path)[0] - how.get("begins", 0) / (FRAMES / 48)) < 0.01


@pytest.mark.parametrize(
    ("seconds", "halves"), [(None, (1, 1)), (17 / 48, (0, 1)), (0.2, (0.435, 1)), (1.25, (0, 0)), (9, (0, 0))]
)
def test_where_a_file_has_no_sound_the_clip_has_none(tmp_path, seconds, halves):
    path = write(tmp_path / "a.mkv", None if seconds is None else click(seconds, 0.1), codec="flac")
    assert missing(path) == pytest.approx(halves, abs=0.01)
    assert seconds is None or abs(apart(write(tmp_path / "b.mkv", click(seconds, 0.1), codec="flac", white=2))) < 0.02


def test_a_gap_within_the_track_is_no_sound(tmp_path, monkeypatch):
    """Two pieces of 0.1 s, of which the second begins 0.2 s after the first has ended."""
    ones = np.ones((2, 800), np.float32)
    pieces = [(start, ones * (number + 1), 8_000) for number, start in enumerate((0.0, 0.3))]
    monkeypatch.setattr(sound, "_pieces", lambda path, container: iter(pieces))
    samples = read_sound(str(write(tmp_path / "a.mp4", click(1, None))), FIRST, 8_000)
    assert np.isnan(samples[0]).sum() == samples.shape[1] - 1600
    assert (samples[:, :800] == 1).all() and (samples[:, 2400:3200] == 2).all()


def test_times_in_whole_milliseconds_leave_no_gaps(tmp_path):
    """Matroska rounds the times of FLAC's frames of 4,608 samples, 104.49 ms at 44.1 kHz."""
    tone = (0.5 * np.sin(np.arange(44_100) * 0.05)).astype(np.float32)[None]
    samples = read_sound(str(write(tmp_path / "a.mkv", tone, codec="flac", rate=44_100)), FIRST, 44_100)
    assert np.abs(samples[0] - tone[0, : samples.shape[1]]).max() < 1e-3


def test_mono_is_as_loud_as_it_was_and_channels_stay_apart(tmp_path):
    tone = (0.5 * np.sin(np.arange(48_000) * 0.05)).astype(np.float32)
    mono = read_sound(str(write(tmp_path / "a.mkv", tone[None], codec="flac")), FIRST, RATE)
    assert np.array_equal(*mono) and abs(mono[0].std() - 0.5 / 2**0.5) < 0.01
    left = read_sound(str(write(tmp_path / "b.mkv", np.stack([tone, 0 * tone]), codec="flac")), FIRST, RATE)
    assert abs(left[0].std() - 0.5 / 2**0.5) < 0.01 and np.abs(left[1]).max() < 1e-4


def test_sound_that_cannot_be_read_names_its_file_and_a_remedy(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mkv", click(1, 0.2), codec="pcm_f32le")
    data = bytearray(path.read_bytes())
    nan = np.float32(np.nan).tobytes()
    place = data.rindex(np.float32(0.9).tobytes())
    data[place : place + 4] = nan
    path.write_bytes(data)
    with pytest.raises(BadClip, match=r"a.mkv: its sound is damaged at 0\.\d+ s"):
        read_sound(str(path), FIRST, RATE)
    good = str(write(tmp_path / "b.mp4", click(1, 0.2)))
    monkeypatch.setattr(sound, "RATES", 40_000)
    with pytest.raises(BadClip, match="its sound has 48000 samples per second, and 40000 is the most"):
        read_sound(good, FIRST, RATE)
    with pytest.raises(BadClip, match="no such file"):
        read_sound(str(tmp_path / "c.mp4"), FIRST, RATE)
    monkeypatch.undo()
    stereo, mono = (write(tmp_path / f"{n}.ts", click(0.3 * n, 0.1, 48_000, n), codec="mp2") for n in (2, 1))
    (tmp_path / "both.ts").write_bytes(stereo.read_bytes() + mono.read_bytes())
    with pytest.raises(BadClip, match="its sound changes from 48000 Hz and . channels to 48000 Hz and .; convert it"):
        read_sound(str(tmp_path / "both.ts"), FIRST, RATE)


def test_the_sound_that_we_write_is_in_step_with_its_frames(tmp_path):
    frames = np.zeros((24, 64, 96, 3), np.uint8)
    frames[10] = 255
    write_clip(tmp_path / "a.mp4", frames, 24, sound=Track(click(1, 10 / 24, 24_000), 24_000))
    assert abs(apart(tmp_path / "a.mp4")) < 0.001
