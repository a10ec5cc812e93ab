"""Sample this few-step student with diffusers alone: python sample.py PROMPT IMAGE OUT.mp4|.safetensors [SEED]

Where the base has no VAE that diffusers knows, IMAGE is a .safetensors of the picture's latents: "first" or "held".
"""

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate


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


class Encoded(torch.nn.Module):
    """Stands for a VAE that diffusers does not know: it encodes every picture to the given latents."""

    def __init__(self, latents: torch.Tensor) -> None:
        super().__init__()
        self.latents = torch.nn.Buffer(latents)
        channels = latents.shape[1]
        self.config = SimpleNamespace(z_dim=channels, latents_mean=[0.0] * channels, latents_std=[1.0] * channels)

    device = property(lambda self: self.latents.device)
    dtype = property(lambda self: self.latents.dtype)

    def encode(self, video: torch.Tensor) -> torch.nn.Module:
        return self


if __name__ == "__main__":
    here, (prompt, picture, out, seed) = Path(__file__).resolve().parent, [*sys.argv[1:], "0"][:4]
    recipe = json.loads((here / "recipe.json").read_text())
    base, times = here / recipe["base"], recipe["timesteps"]
    base = base if base.is_dir() else recipe["base"]  # a name on the hub
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    steps = getattr(diffusers, recipe["scheduler"]).from_pretrained(here / "scheduler")
    # Else the pipeline asks for steps of its own: no key of a scheduler's file can hold the student's.
    steps.set_timesteps = partial(steps.set_timesteps, timesteps=times, sigmas=[t / 1000 for t in times])
    parts = {p.name: diffusers.WanTransformer3DModel.from_pretrained(p, dtype=dtype) for p in here.glob("transformer*")}
    no_vae = {} if diffusers.WanImageToVideoPipeline.load_config(base)["vae"][0] else {"vae": None}
    parts |= {"scheduler": steps, "boundary_ratio": recipe["boundary_ratio"], "use_safetensors": True} | no_vae
    precise = dict(default=dtype, vae=torch.float32, image_encoder=torch.float32)
    pipe = diffusers.WanImageToVideoPipeline.from_pretrained(base, dtype=precise, **parts).to(device)
    if recipe["vae_tiling"] and not no_vae:
        pipe.vae.enable_tiling()
    latents, (_, t, h, w) = bool(no_vae) or out.endswith(".safetensors"), recipe["latent_shape"]
    size = {"height": h * pipe.vae_scale_factor_spatial, "width": w * pipe.vae_scale_factor_spatial}
    call = size | {key: recipe[key] for key in ("negative_prompt", "guidance_scale", "max_sequence_length")}
    call |= {"num_frames": (t - 1) * pipe.vae_scale_factor_temporal + 1, "num_inference_steps": len(times)}
    image = Image.new("RGB", (size["width"], size["height"])) if no_vae else fit(Image.open(picture), **size)
    if no_vae:
        tensors = load_file(picture)
        pipe.vae = Encoded(tensors["held"][None] if "held" in tensors else tensors["first"][None, :, None]).to(device)
    torch.manual_seed(int(seed))  # initial latents and fresh noise come from the global generator, in this order
    video = pipe(image, prompt, output_type="latent" if latents else "np", **call)[0]
    save_file({"latents": video}, out) if latents else diffusers.utils.export_to_video(video[0], out, recipe["fps"])
