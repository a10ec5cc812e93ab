"""Sample this few-step student with diffusers alone: python sample.py "a prompt" [IMAGE] out.mp4|.safetensors [seed]

Only a student from images (`from_image` in recipe.json) takes IMAGE.
"""

import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch.nn.functional import interpolate


def guidance(scale: float, audio: float | None = None) -> dict[str, float]:
    """Arguments for the guidance scales of picture and sound (None: the picture's), with the pipeline's other guidance
    terms switched off."""
    one = {"guidance_scale": scale, "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
    both = one | {f"audio_{name}": value for name, value in one.items()}
    return both if audio is None else both | {"audio_guidance_scale": audio}


def fit(picture: Image.Image, height: int, width: int) -> Image.Image:
    """Turn a picture upright, crop the largest centred window of the aspect ratio, and resize it by one interpolation,
    as training did with clips."""
    pixels = torch.from_numpy(np.array(ImageOps.exif_transpose(picture).convert("RGB"))).movedim(-1, 0)[None]
    rows, columns = pixels.shape[2:]
    kept = min(rows, max(1, round(columns * height / width))), min(columns, max(1, round(rows * width / height)))
    top, left = (rows - kept[0]) // 2, (columns - kept[1]) // 2
    pixels = pixels[:, :, top : top + kept[0], left : left + kept[1]]
    if kept[0] % height == 0 and kept[1] % width == 0:
        pixels = interpolate(pixels.float(), (height, width), mode="area").round().to(torch.uint8)
    else:
        pixels = interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return Image.fromarray(pixels[0].movedim(0, -1).numpy())


def pack(pipe: Any, video: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
    """Normalise and pack the latents that the pipeline returns, into [B, C, t h w + L, 1, 1]."""
    mean, std = (x.view(1, -1, 1, 1, 1) for x in (pipe.vae.latents_mean, pipe.vae.latents_std))
    video = (video - mean) * pipe.vae.config.scaling_factor / std
    tokens = (audio.transpose(1, 2).flatten(2) - pipe.audio_vae.latents_mean) / pipe.audio_vae.latents_std
    return torch.cat([video.flatten(2), tokens.transpose(1, 2)], dim=2)[..., None, None].contiguous()


if __name__ == "__main__":
    here, (prompt, *rest) = Path(__file__).resolve().parent, sys.argv[1:]
    recipe = json.loads((here / "recipe.json").read_text())
    image, (out, seed) = rest.pop(0) if recipe["from_image"] else None, [*rest, "0"][:2]
    base = here / recipe["base"] if (here / recipe["base"]).is_dir() else recipe["base"]  # else a name on the hub
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    steps = getattr(diffusers, recipe["scheduler"]).from_pretrained(here / "scheduler")
    network = diffusers.LTX2VideoTransformer3DModel.from_pretrained(here / "transformer", dtype=dtype)
    parts = {"transformer": network, "scheduler": steps, "use_safetensors": True}
    of = diffusers.LTX2ImageToVideoPipeline if image else diffusers.LTX2Pipeline
    pipe = of.from_pretrained(base, dtype=dtype, **parts).to(device)
    if recipe["vae_tiling"]:
        pipe.vae.enable_tiling()
    call = {key: recipe[key] for key in ("height", "width", "negative_prompt", "max_sequence_length")}
    call |= guidance(recipe["guidance_scale"], recipe.get("audio_guidance_scale"))
    call |= {"num_frames": recipe["frames"], "frame_rate": recipe["fps"]}
    # Else the scheduler chooses steps of its own, and no key of its file can name the student's.
    call |= {"sigmas": [t / 1000 for t in recipe["timesteps"]], "num_inference_steps": len(recipe["timesteps"])}
    if image:  # the pipeline compresses it, as training did with given pictures
        call["image"] = fit(Image.open(image), recipe["height"], recipe["width"])
    latents = out.endswith(".safetensors")
    torch.manual_seed(int(seed))  # initial latents and fresh noise come from the global generator, in this order
    video, audio = pipe(prompt=prompt, output_type="latent" if latents else "np", return_dict=False, **call)
    if latents:
        save_file({"latents": pack(pipe, video, audio)}, out)
    else:
        rate = pipe.vocoder.config.output_sampling_rate
        diffusers.utils.encode_video(video[0], recipe["fps"], out, audio[0].float().cpu(), rate)
