"""Contact sheets: titles are one line each, frames stay within their size."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ray_distill.sheets import LINE, MARGIN, contact_sheet


def video(height: int, width: int, frames: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (frames, height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "title", ["word " * 200_001, "x" * 2_000_000, "a\n\nb\r\n\u2028c" * 40, "赤い凧" * 100, "", "a\0b\x1b"]
)
def test_a_title_is_one_line_of_the_sheet(tmp_path: Path, title: str) -> None:
    for name, text in (("one.png", "short"), ("s.png", title)):
        contact_sheet(tmp_path / name, [(text, [video(24, 24)])])
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "s.png") as other:
        assert one.size == other.size
        frames = slice(MARGIN + LINE, None)
        assert np.array_equal(np.asarray(one)[frames], np.asarray(other)[frames])  # no title runs into the frames


def test_a_large_frame_is_shrunk_to_its_edge_and_short_videos_leave_room(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "s.png", [("large", [video(480, 320)]), ("short", [video(24, 24, 1)])], frames=4, edge=160)
    picture = np.asarray(Image.open(tmp_path / "s.png"))
    assert picture.shape == (24 + 22 + 160 + 28 + 22 + 96 + 24, 24 + 4 * 107 + 3 * 4 + 24, 3)
    assert (picture[-24 - 96 : -24, 24 + 96 :] == 255).all() and (picture[-24 - 96 : -24, 24 : 24 + 96] < 255).any()


def test_a_heading_of_two_lines_has_room_for_both(tmp_path: Path) -> None:
    rows = [("a kite", [video(24, 24), video(24, 24)])]
    contact_sheet(tmp_path / "one.png", rows, ["teacher", "student"])
    contact_sheet(tmp_path / "two.png", rows, ["teacher", "student\nFD 20.6"])
    one, two = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")) for name in ("one", "two"))
    assert two.shape == (one.shape[0] + LINE, one.shape[1])
    assert np.array_equal(one[MARGIN + 29 :], two[MARGIN + 29 + LINE :])
    second = two[MARGIN + LINE : MARGIN + LINE + 20]
    half = two.shape[1] // 2
    assert (second[:, half:] < 128).any() and not (second[:, :half] < 128).any()
