"""Sample one video of a prompt from a checkpoint, by the method's own recipe."""

from __future__ import annotations

from pathlib import Path

import torch

from ray_distill.config import ConfigError, RunConfig
from ray_distill.data.pictures import picture_rows
from ray_distill.data.read.clip import BadClip
from ray_distill.data.read.video import write_clip
from ray_distill.evaluate.generate import Candidate, denoiser, enlarge, frames_of, make_latents
from ray_distill.models.codec import load_codec
from ray_distill.models.conditions import batched, unconditional
from ray_distill.models.spec import of_clips
from ray_distill.types import STUDENT


def sample_video(
    config: RunConfig, checkpoint: Path, prompt: str, seed: int, out: Path, image: Path | None = None
) -> None:
    """Write an mp4 of ``prompt``, which begins with the picture ``image`` where the network takes one; equal seeds give
    equal videos. ConfigError where a picture is missing, or not taken."""
    from_image = bool(of_clips(config.model.encoders.fields))
    if from_image != (image is not None):
        remedy = "give --image PICTURE" if from_image else "leave --image out"
        raise ConfigError(
            f"{config.model.pipeline.where}: it begins from {'a picture' if from_image else 'text'}; {remedy}"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    codec = load_codec(config.model.path / "vae").to(device)
    encoders = config.model.encoders
    asked, negative = encoders.text_encoder().encode([prompt, config.data.negative_prompt])
    if image is not None:
        size = config.data.frames, config.data.height, config.data.width
        try:
            asked = {**asked, **picture_rows(encoders, [image], size)[0]}
        except BadClip as bad:
            raise ConfigError(f"--image {bad}") from None
    cond = {name: value.to(device) for name, value in batched([asked], encoders.fields).items()}
    uncond = unconditional(negative, cond, encoders.fields)
    recipe = config.method.sampler()
    denoise = denoiser(config, Candidate(STUDENT, recipe, checkpoint), device)
    shape = codec.latent_shape(config.data.frames, config.data.height, config.data.width)
    latents = make_latents(denoise, recipe, cond, uncond, 0, seed, shape)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_clip(out, enlarge(frames_of(codec, latents, checkpoint.name)[0]), config.data.fps)
