"""The committed teacher of two digits draws both colours and both digits of its prompt."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import pad

from ray_distill.data.read.transform import to_frames
from ray_distill.diffusion.samplers import sample
from ray_distill.diffusion.timesteps import euler_timesteps
from ray_distill.evaluate.metrics import Metric
from ray_distill.models import family
from ray_distill.models.codec import load_codec
from ray_distill.models.loading import load_transformer
from ray_distill.models.wan.text import wan_text
from ray_distill.types import Sampler

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "examples"))
from two_digits import FRAMES, SIZE  # noqa: E402
from two_digits_base import MAX_LENGTH  # noqa: E402

FOLDER, PROMPTS = ROOT / "examples/two_digits_teacher", ROOT / "examples/two_digits_prompts.txt"


@torch.no_grad()
def test_the_teacher_draws_both_colours_and_both_digits():
    prompts = PROMPTS.read_text().splitlines()[:12]
    texts = [row["text"] for row in wan_text(FOLDER, MAX_LENGTH).encode([*prompts, ""])]
    padded = torch.stack([pad(text, (0, 0, 0, MAX_LENGTH - len(text))) for text in texts])
    cond, uncond = {"text": padded[:-1]}, {"text": padded[-1:].expand(len(prompts), -1, -1)}
    codec, metric = load_codec(FOLDER / "vae"), Metric.load(FOLDER / "metric")
    shape = codec.latent_shape(FRAMES, SIZE, SIZE)
    x_T = torch.randn(len(prompts), *shape, generator=torch.Generator().manual_seed(0))
    denoise = family("wan").denoiser(load_transformer("wan", FOLDER))
    latents = sample(denoise, Sampler(euler_timesteps(10, 3.0), "ode", 2.0), x_T, cond, uncond, noise=lambda i: x_T)
    predicted = metric.classify(to_frames(codec.decode(latents)))
    right = np.array(
        [
            [word in answer for word, answer in zip(words, metric.answers(prompt).values(), strict=True)]
            for words, prompt in zip(predicted, prompts, strict=True)
        ]
    ).mean(0)
    first_colour, first_digit, second_colour, second_digit = right
    assert first_colour == second_colour == 1 and min(first_digit, second_digit) >= 0.75, right
