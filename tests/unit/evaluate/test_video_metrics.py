"""Motion and colour in closed form, and what each does not mistake for itself."""

import numpy as np
import pytest
import torch

from ray_distill.evaluate.metrics import chroma, measures, motion, saturation


def blob(dy, dx, frames=9, size=48, scale=1.0):
    """uint8 [1, T, H, W, 3]: a round blob and a ring of others that all move by (dy, dx) pixels a frame."""
    y, x = np.mgrid[:size, :size].astype(float)
    video = np.zeros((frames, size, size))
    for t in range(frames):
        for angle in np.linspace(0, 2 * np.pi, 6)[:-1]:
            top, left = size / 2 + 9 * np.sin(angle) + dy * (t - frames / 2), size / 2 + 9 * np.cos(angle)
            video[t] += np.exp(-((y - top) ** 2 + (x - left - dx * (t - frames / 2)) ** 2) / (2 * 2.5**2))
    return (200 * scale * video.clip(0, 1)).round().astype(np.uint8)[None, ..., None].repeat(3, -1)


@pytest.mark.parametrize("dy, dx", [(0.3, 0.0), (0.6, -0.8), (1.0, 1.0), (-1.0, 0.4)])
def test_motion_is_the_length_of_a_steady_displacement(dy, dx):
    assert motion(blob(dy, dx), fps=8).item() == pytest.approx(np.hypot(dy, dx) / 48 * 8, rel=0.05)


def test_motion_has_no_unit_of_pixels_or_frames():
    slow = motion(blob(0.5, 0.0), fps=8).item()
    assert motion(blob(1.0, 0.0), fps=4).item() == pytest.approx(slow, rel=0.03)  # half the frames of the same motion
    large = blob(1.0, 0.0, size=256).repeat(2, 2).repeat(2, 3)  # 512 pixels, shrunk to 128 by whole factors
    assert motion(large, fps=8).item() == pytest.approx(8 / 256, rel=0.1)


def test_contrast_is_not_motion():
    assert motion(blob(0.6, 0.8, scale=0.4), fps=8).item() == pytest.approx(8 / 48, rel=0.05)


def test_what_stands_still_or_shows_nothing_does_not_move():
    still = blob(0.0, 0.0)
    blank = np.full((2, 5, 16, 16, 3), 70, np.uint8)
    assert motion(still, fps=8).item() == 0.0 and motion(blank, fps=8).tolist() == [0.0, 0.0]
    assert motion(still[:, :1], fps=8).item() == 0.0


def test_saturation_and_chroma_of_plain_colours():
    colours = [(200, 100, 100), (0, 0, 0), (255, 255, 255), (255, 0, 0), (15, 10, 10)]
    videos = np.stack([np.broadcast_to(np.array(c, np.uint8), (2, 4, 4, 3)) for c in colours])
    assert saturation(videos).tolist() == pytest.approx([0.5, 0.0, 0.0, 1.0, 0.0])
    assert chroma(videos).tolist() == pytest.approx([100 / 255, 0.0, 0.0, 1.0, 5 / 255])


def test_saturation_leaves_dark_pixels_out():
    video = np.zeros((1, 1, 2, 2, 3), np.uint8)
    video[0, 0, 0, 0] = (200, 50, 50)
    video[0, 0, 1, 1] = (15, 0, 0)  # S = 1, and nobody sees it
    assert saturation(video).item() == pytest.approx(0.75)
    assert chroma(video).item() == pytest.approx((150 + 15) / 255 / 4)


def test_all_measures_by_name():
    videos = np.concatenate([blob(0.5, 0.0), blob(0.0, 0.0)])
    found = measures(videos, 8)
    assert set(found) == {"motion", "saturation", "chroma"}
    assert all(values.shape == (2,) and values.dtype == torch.float64 for values in found.values())
    assert torch.equal(found["motion"], motion(videos, 8))
