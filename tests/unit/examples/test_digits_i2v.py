"""The committed teacher from a picture: it keeps the picture, and its digit moves on as the prompt says."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import pad

from ray_distill.config.evaluate import Evaluate
from ray_distill.data.read.picture import read_picture
from ray_distill.data.read.transform import to_frames, to_pixels
from ray_distill.diffusion.samplers import sample
from ray_distill.diffusion.timesteps import euler_timesteps
from ray_distill.evaluate.metrics import Metric, measures
from ray_distill.models import family
from ray_distill.models.codec import load_codec
from ray_distill.models.loading import load_transformer
from ray_distill.models.wan.image import WanImageEncoder
from ray_distill.models.wan.text import wan_text
from ray_distill.types import Sampler

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "examples"))
import digits_i2v_base  # noqa: E402
from moving_digits import DIGITS, DIRECTIONS, caption_of, draw  # noqa: E402

FOLDER, TOKENS = ROOT / "examples/digits_i2v_teacher", 8


@pytest.fixture(scope="module")
def clips():
    """uint8 [20, 9, 24, 24, 3] of two images of each digit, and their captions."""
    images, labels = load_digits(return_X_y=True)
    asked = [(digit, number, DIRECTIONS[(digit + number) % 4]) for digit in range(10) for number in (1, 2)]
    drawn = [draw(images[labels == digit][number].reshape(8, 8), way) for digit, number, way in asked]
    return np.stack(drawn), [caption_of(DIGITS[digit], way) for digit, _, way in asked]


@pytest.fixture(scope="module")
def metric():
    return Metric.load(ROOT / "examples/digits_teacher/metric")


def distance(one, other):
    """Mean difference of two sets of pictures, of 255."""
    return np.abs(one.astype(int) - other).mean()


def test_the_codec_keeps_digits_legible_and_loses_nothing_of_the_picture(clips, metric):
    frames, captions = clips
    codec = load_codec(FOLDER / "vae")
    back = to_frames(codec.decode(codec.encode(to_pixels(frames))))
    assert np.abs(back[:, 0].astype(int) - frames[:, 0]).max() <= 1
    assert metric.accuracy(back, captions) >= metric.accuracy(frames, captions) - 0.05


@torch.no_grad()
def test_the_teacher_lets_a_digit_move_on_from_its_picture(clips, metric):
    frames, captions = clips
    codec = load_codec(FOLDER / "vae")
    pictures = WanImageEncoder(codec, {"first"}).encode(to_pixels(frames[:, :1].repeat(9, axis=1)))
    texts = [row["text"] for row in wan_text(FOLDER, TOKENS).encode([*captions, ""])]
    padded = torch.stack([pad(text, (0, 0, 0, TOKENS - len(text))) for text in texts])
    first = {"first": torch.stack([row["first"] for row in pictures])}
    cond, uncond = first | {"text": padded[:-1]}, first | {"text": padded[-1:].expand(len(frames), -1, -1)}
    x_T = torch.randn(len(frames), 16, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    denoise = family("wan").denoiser(load_transformer("wan", FOLDER))
    latents = sample(denoise, Sampler(euler_timesteps(12, 3.0), "ode", 1.5), x_T, cond, uncond, noise=lambda i: x_T)
    videos = to_frames(codec.decode(latents))
    assert np.abs(videos[:, 0].astype(int) - frames[:, 0]).max() <= 1
    assert metric.accuracy(videos, captions) >= metric.accuracy(frames, captions) - 0.05
    moved, path = (float(measures(each, 8, ("motion",))["motion"].mean()) for each in (videos, frames))
    assert 0.9 < moved / path < 1.1
    assert distance(videos[:, -1], frames[:, -1]) < 0.3 * distance(frames[:, 0], frames[:, -1])


def test_the_pictures_of_prompts_are_first_frames(tmp_path, clips):
    frames, captions = clips
    digits_i2v_base.write_pictures(tmp_path, captions, frames)
    settings = Evaluate(prompts=tmp_path / "prompts.json", images=tmp_path / "pictures.json")
    assert list(settings.prompts.values()) == captions and settings.prompts.keys() == settings.images.keys()
    for path, clip in zip(settings.images.values(), frames, strict=True):
        assert np.array_equal(read_picture(str(path), 10**6), clip[0])
