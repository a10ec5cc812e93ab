"""Sample one video of a prompt from a checkpoint, by the method's own recipe."""

from __future__ import annotations

from pathlib import Path

import torch

from ray_distill.config import RunConfig
from ray_distill.data.read.video import write_clip
from ray_distill.evaluate.generate import Candidate, denoiser, enlarge, frames_of, make_latents
from ray_distill.models.codec import load_codec
from ray_distill.models.conditions import batched, unconditional
from ray_distill.types import STUDENT


def sample_video(config: RunConfig, checkpoint: Path, prompt: str, seed: int, out: Path) -> None:
    """Write an mp4 of ``prompt``; equal seeds give equal videos."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    codec = load_codec(config.model.path / "vae").to(device)
    encoders = config.model.encoders
    asked, negative = encoders.text_encoder().encode([prompt, config.data.negative_prompt])
    cond = {name: value.to(device) for name, value in batched([asked], encoders.fields).items()}
    uncond = unconditional(negative, cond, encoders.fields)
    recipe = config.method.sampler()
    denoise = denoiser(config, Candidate(STUDENT, recipe, checkpoint), device)
    shape = codec.latent_shape(config.data.frames, config.data.height, config.data.width)
    latents = make_latents(denoise, recipe, cond, uncond, 0, seed, shape)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_clip(out, enlarge(frames_of(codec, latents, checkpoint.name)[0]), config.data.fps)
