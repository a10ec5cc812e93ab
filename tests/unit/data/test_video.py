import pickle

import numpy as np
import pytest

from ray_distill.data.read.clip import BadClip, Cut
from ray_distill.data.read.video import read_clip, write_clip


def moving_square(frames=9, size=96):
    clip = np.zeros((frames, size, size, 3), np.uint8)
    for t in range(frames):
        clip[t, 8 * t : 8 * t + 16, 20:40] = 250
        clip[t, :, 60:] = 10 * t  # every frame has its own level, so that a frame in the wrong place shows
    return clip


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "clip.mp4"
    write_clip(path, moving_square(), fps=8, crf=1)
    return path


def test_round_trip_keeps_every_frame_in_its_place(path):
    clip = read_clip(str(path), Cut(9))
    assert clip.frames.shape == (9, 96, 96, 3) and clip.frames.dtype == np.uint8
    error = np.abs(clip.frames.astype(int) - moving_square())
    assert error.mean(axis=(1, 2, 3)).max() < 2
    assert not list(path.parent.glob(".*")), "the temporary file must be gone"


def test_stride_takes_every_second_frame(path):
    whole, strided = read_clip(str(path), Cut(9)).frames, read_clip(str(path), Cut(5, 2)).frames
    assert (strided == whole[::2]).all()


def test_decord_and_pyav_give_equal_frames(path):
    by_decord = read_clip(str(path), Cut(4, 2), preferred="decord")
    by_pyav = read_clip(str(path), Cut(4, 2))
    assert (by_decord.decoder, by_pyav.decoder) == ("decord", "pyav")
    assert (by_decord.frames == by_pyav.frames).all()


def test_width_that_decord_refuses_is_read_by_pyav(tmp_path):
    write_clip(tmp_path / "small.mp4", moving_square(size=96)[:, :24, :24], fps=8)
    clip = read_clip(str(tmp_path / "small.mp4"), Cut(9), preferred="decord")
    assert clip.decoder == "pyav" and clip.frames.shape == (9, 24, 24, 3)


def test_too_short_says_how_many_frames_there_are(path):
    with pytest.raises(BadClip, match=r"clip.mp4: has 9 frames and 11 are needed"):
        read_clip(str(path), Cut(6, 2))


@pytest.mark.parametrize("content", [b"", b"this is no video\n" * 100], ids=["empty", "text"])
def test_a_file_that_is_no_video_is_a_bad_clip(tmp_path, content):
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(BadClip, match=r"bad.mp4: cannot be decoded"):
        read_clip(str(tmp_path / "bad.mp4"), Cut(9))


def test_a_truncated_file_is_a_bad_clip(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadClip):
        read_clip(str(path), Cut(9))


def test_damaged_frames_behind_an_intact_index_are_never_returned_as_good(path):
    """The index survives and the frames do not: the decoder must not repeat an older frame in silence."""
    whole = bytearray(path.read_bytes())
    start = whole.index(b"mdat") + 4
    size = int.from_bytes(whole[start - 8 : start - 4], "big") - 8
    whole[start + size // 2 : start + size] = bytes(size - size // 2)
    path.write_bytes(whole)
    with pytest.raises(BadClip):
        read_clip(str(path), Cut(9))


def test_missing_file_and_pickling():
    with pytest.raises(BadClip, match="no such file") as caught:
        read_clip("nowhere.mp4", Cut(9))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.path, again.reason) == ("nowhere.mp4", "no such file")


def test_write_refuses_odd_sizes_and_leaves_the_old_file(path):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="even height and width, got 95x96"):
        write_clip(path, moving_square()[:, :95], fps=8)
    with pytest.raises(ValueError, match="uint8"):
        write_clip(path, moving_square().astype(np.float32), fps=8)
    assert path.read_bytes() == before


def test_equal_frames_give_equal_bytes(tmp_path):
    """Whatever was in memory before: x264's macroblock tree took it for its own."""
    rng = np.random.default_rng(0)
    frames = np.kron(rng.integers(0, 256, (9, 24, 24, 3), dtype=np.uint8), np.ones((1, 8, 8, 1), dtype=np.uint8))
    seen = set()
    for _ in range(12):
        garbage = [rng.integers(0, 256, size, dtype=np.uint8) for size in rng.integers(1000, 400_000, 80)]
        del garbage[::2]
        write_clip(tmp_path / "clip.mp4", frames, fps=8)
        seen.add((tmp_path / "clip.mp4").read_bytes())
    assert len(seen) == 1
