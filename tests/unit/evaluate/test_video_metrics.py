"""Motion, colour, light and flicker in closed form, and what each does not mistake for itself."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ray_distill.config.measures import ALL, FIRST_FRAME, LEAST, OF_NETWORK
from ray_distill.evaluate.metrics import measures
from ray_distill.evaluate.metrics.flow import motions
from ray_distill.evaluate.metrics.measures import GROUPS


def measured(videos, fps=8, **kwargs):
    return {name: values.tolist() for name, values in measures(videos, fps, **kwargs).items()}


def motion(videos, fps=8):
    return measures(videos, fps, ["motion"])["motion"].tolist()


def blob(dy, dx, frames=9, size=48, scale=1.0):
    """uint8 [1, T, H, W, 3]: a round blob and a ring of others that all move by (dy, dx) pixels a frame."""
    y, x = np.mgrid[:size, :size].astype(float)
    video = np.zeros((frames, size, size))
    for t in range(frames):
        for angle in np.linspace(0, 2 * np.pi, 6)[:-1]:
            top, left = size / 2 + 9 * np.sin(angle) + dy * (t - frames / 2), size / 2 + 9 * np.cos(angle)
            video[t] += np.exp(-((y - top) ** 2 + (x - left - dx * (t - frames / 2)) ** 2) / (2 * 2.5**2))
    return (200 * scale * video.clip(0, 1)).round().astype(np.uint8)[None, ..., None].repeat(3, -1)


def plain(*colours, frames=2, size=4):
    """uint8 [N, T, H, W, 3], each video of one colour."""
    return np.stack([np.broadcast_to(np.array(colour, np.uint8), (frames, size, size, 3)) for colour in colours])


@pytest.mark.parametrize("dy, dx", [(0.3, 0.0), (0.6, -0.8), (1.0, 1.0), (-1.0, 0.4), (2.0, 0.0), (0.0, 3.0)])
def test_motion_is_the_length_of_a_steady_displacement(dy, dx):
    assert motion(blob(dy, dx)) == pytest.approx([np.hypot(dy, dx) / 48 * 8], rel=0.03)


def test_motion_has_no_unit_of_pixels_or_frames():
    assert motion(blob(1.0, 0.0), fps=4) == pytest.approx(motion(blob(0.5, 0.0)), rel=0.03)  # half of its frames
    large = blob(1.0, 0.0, size=256).repeat(2, 2).repeat(2, 3)  # 512 pixels, shrunk to 256
    assert motion(large) == pytest.approx([8 / 256], rel=0.05)


def test_contrast_is_not_motion():
    assert motion(blob(0.6, 0.8, scale=0.4)) == pytest.approx([8 / 48], rel=0.05)


def test_what_stands_still_or_shows_nothing_does_not_move():
    for video in (blob(0.0, 0.0), blob(0.0, 0.0)[:, :1], plain((70, 70, 70), frames=5, size=40)):
        found = measured(video)
        assert [*found["motion"], *found["motion_top"], *found["moving"]] == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)


def test_the_fastest_part_of_a_picture_is_faster_than_its_mean():
    """Two halves: one stands, the other moves by a pixel and a half."""
    both = np.concatenate([blob(0.0, 0.0), blob(1.5, 0.0)], axis=3)
    found = measured(both)
    assert found["motion_top"][0] == pytest.approx(1.5 / 48 * 8, rel=0.1)
    assert found["motion"][0] == pytest.approx(0.75 / 48 * 8, rel=0.1)


@pytest.mark.parametrize(("share", "top"), [(0.05, 10.0), (0.02, 4.0), (0.5, 10.0), (0.0, 0.0)])
def test_the_top_of_a_flow_is_the_mean_of_its_longest_twentieth(share, top):
    """A flow of 10 on 5 % of the pixels has a top of 10; on 2 % 10 x 2 / 5."""
    lengths = np.zeros(10_000, np.float32)
    lengths[: round(10_000 * share)] = 10
    field = np.random.default_rng(0).permutation(lengths).reshape(100, 100)
    found = motions(np.zeros((4, 100, 100, 3), np.uint8), 8.0, lambda frames: np.stack([field] * (len(frames) - 1)))
    assert found["motion_top"] == pytest.approx(8 * top, rel=1e-6) and found["moving"] == float(top > 0)


def test_a_video_moves_where_enough_pairs_pass_the_threshold():
    """6 / 256 of the short side is 1.125 of 48 pixels; of 9 sampled frames round(4 * 9 / 16) = 2 pairs must pass it."""
    fast, slow, still = blob(2.0, 0.0), blob(0.5, 0.0), blob(0.0, 0.0)
    assert measured(np.concatenate([fast, slow]))["moving"] == [1.0, 0.0]
    once = np.concatenate([still[:, :8], fast[:, -1:]], axis=1)  # one pair alone
    assert measured(once)["moving"] == [0.0]
    assert measured(slow, fps=24)["moving"] == [1.0]  # pairs are three frames apart then
    assert [measured(video[:, :2])["moving"] for video in (still, fast)] == [[0.0], [1.0]]  # round(4 * 2 / 16) is 0


def test_saturation_chroma_and_clipped_of_plain_colours():
    found = measured(plain((200, 100, 100), (0, 0, 0), (255, 255, 255), (255, 0, 0), (15, 10, 10)))
    assert found["saturation"] == pytest.approx([0.5, 0.0, 0.0, 1.0, 0.0])
    assert found["chroma"] == pytest.approx([100 / 255, 0.0, 0.0, 1.0, 5 / 255])
    assert found["clipped"] == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_saturation_leaves_dark_pixels_out():
    video = np.zeros((1, 1, 2, 2, 3), np.uint8)
    video[0, 0, 0, 0] = (200, 50, 50)
    video[0, 0, 1, 1] = (15, 0, 0)  # S = 1, and nobody sees it
    found = measured(video)
    assert found["saturation"] == pytest.approx([0.75]) and found["chroma"] == pytest.approx([(150 + 15) / 255 / 4])


def test_contrast_is_the_deviation_of_luma_and_sharpness_falls_with_blur():
    stripes = np.zeros((1, 2, 8, 8, 3), np.uint8)
    stripes[..., ::2, :] = 100
    blurred = (stripes / 2 + np.roll(stripes, 1, axis=3) / 2).astype(np.uint8)
    assert measured(stripes)["contrast"] == pytest.approx([50 / 255])
    assert measured(stripes)["sharpness"] == pytest.approx(
        [2 * 100 / 255]
    )  # Laplacian: 2 x 100 one way, then the other
    assert measured(blurred)["contrast"] == measured(blurred)["sharpness"] == [0.0]


def test_flicker_of_noise_and_of_a_ramp():
    """Noise of deviation 3: 6 / sqrt(pi) = 3.385, so 1 - flicker is 0.98672; the second difference sqrt(3 / pi) 3."""
    noise = np.random.default_rng(0).normal(128, 3, (1, 12, 64, 64, 3))
    found = measured(noise.round().astype(np.uint8))
    assert 1 - found["flicker"][0] == pytest.approx(0.986725, abs=2e-4)  # rounding adds 1 / 12 to the variance
    assert found["jitter"][0] * 255 == pytest.approx(3 * np.sqrt(3 / np.pi), rel=0.01)
    ramp = np.broadcast_to(np.arange(0, 60, 5, dtype=np.uint8)[:, None, None, None], (1, 12, 4, 4, 3))
    found = measured(ramp)
    assert found["flicker"] == pytest.approx([5 / 255]) and found["jitter"] == [0.0]


def test_all_measures_by_name():
    videos = np.concatenate([blob(0.5, 0.0), blob(0.0, 0.0)])
    found = measures(videos, 8)
    assert tuple(found) == ALL == tuple(LEAST)[: len(ALL)] == tuple(name for group in GROUPS.values() for name in group)
    table = (Path(__file__).parents[3] / "docs/metrics.md").read_text()
    assert all(f"\n| `{name}` | " in table for name in (*ALL, FIRST_FRAME, *OF_NETWORK))
    assert all(values.shape == (2,) and values.dtype == torch.float64 for values in found.values())
    assert set(measures(videos, 8, ["flicker", "chroma"])) == {"flicker", "chroma"} and measures(videos, 8, ()) == {}
