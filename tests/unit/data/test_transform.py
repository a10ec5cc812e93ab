import numpy as np
import pytest
import torch
from PIL import Image

from ray_distill.data.read.transform import resize, to_frames, to_pixels


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_area_undoes_a_nearest_neighbour_enlargement():
    small = noise(3, 24, 24, 3)
    assert (resize(small.repeat(4, axis=1).repeat(4, axis=2), 24, 24) == small).all()


def test_area_is_the_mean_of_each_window():
    frames = noise(2, 8, 8, 3)
    means = frames.reshape(2, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    assert np.abs(resize(frames, 4, 4) - means).max() <= 0.5


@pytest.mark.parametrize("size", [(37, 51), (65, 85), (100, 70)])
def test_other_factors_are_pillows_antialiased_bilinear(size):
    frames = noise(2, 60, 80, 3)
    wanted = [Image.fromarray(f).resize(size[::-1], Image.Resampling.BILINEAR) for f in frames]
    off = np.abs(resize(frames, *size, crop=False).astype(int) - np.stack([np.asarray(image) for image in wanted]))
    assert off.max() <= 1


def test_centre_crop_keeps_the_middle_and_the_aspect():
    frames = np.zeros((1, 10, 30, 3), np.uint8)
    frames[:, :, 10:20] = 200
    assert (resize(frames, 10, 10) == 200).all()
    assert (resize(frames.swapaxes(1, 2), 5, 5) == 200).all()


def test_enlarging_keeps_a_constant_and_the_range():
    assert (resize(np.full((1, 6, 6, 3), 77, np.uint8), 15, 15) == 77).all()
    assert resize(noise(1, 6, 9, 3), 12, 18).shape == (1, 12, 18, 3)


def test_pixels_are_channel_first_in_minus_one_to_one():
    frames = np.zeros((2, 5, 4, 6, 3), np.uint8)
    frames[1, 2, 3, 4] = (0, 255, 51)
    pixels = to_pixels(frames)
    assert pixels.shape == (2, 3, 5, 4, 6) and pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[1, :, 2, 3, 4], torch.tensor([-1.0, 1.0, -0.6]))


@pytest.mark.parametrize("shape", [(5, 4, 6, 3), (2, 5, 4, 6, 3)])
def test_to_frames_inverts_to_pixels(shape):
    assert (to_frames(to_pixels(noise(*shape))) == noise(*shape)).all()


def test_to_frames_clamps():
    assert to_frames(torch.full((3, 1, 1, 1), 9.0)).max() == 255
    assert to_frames(torch.full((3, 1, 1, 1), -9.0)).max() == 0


def test_wrong_layouts_are_named():
    with pytest.raises(ValueError, match="uint8"):
        to_pixels(np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match=r"\[3, T, H, W\]"):
        to_frames(torch.zeros(1, 4, 4, 3))


def test_a_crop_knows_the_shape_of_pixels():
    """A pixel twice as wide as high: a square of the picture is 10 rows of 5 pixels."""
    frames = np.zeros((1, 10, 15, 3), np.uint8)
    frames[:, :, 5:10] = 200
    assert (resize(frames, 10, 10, pixel_aspect=2) == 200).all()
    assert (resize(frames.swapaxes(1, 2), 10, 10, pixel_aspect=0.5) == 200).all()


def test_without_a_crop_the_whole_picture_is_squeezed():
    frames = np.zeros((1, 8, 24, 3), np.uint8)
    frames[:, :, 8:16] = 200
    squeezed = resize(frames, 8, 12, crop=False)
    assert squeezed.shape == (1, 8, 12, 3) and (squeezed[:, :, 4:8] == 200).all() and squeezed[:, :, :4].max() == 0
