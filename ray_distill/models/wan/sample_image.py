"""Sample this few-step student with diffusers alone: python sample.py PROMPT IMAGE OUT.mp4|.safetensors [SEED]"""

import json
import sys
from functools import partial
from pathlib import Path

import diffusers
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import interpolate


def fit(picture: Image.Image, height: int, width: int) -> Image.Image:
    """The largest centred window of the aspect, in one interpolation, as training cut its clips."""
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).movedim(-1, 0)[None]
    rows, columns = pixels.shape[2:]
    kept = min(rows, max(1, round(columns * height / width))), min(columns, max(1, round(rows * width / height)))
    top, left = (rows - kept[0]) // 2, (columns - kept[1]) // 2
    pixels = pixels[:, :, top : top + kept[0], left : left + kept[1]]
    if kept[0] % height == 0 and kept[1] % width == 0:
        pixels = interpolate(pixels.float(), (height, width), mode="area").round().to(torch.uint8)
    else:
        pixels = interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return Image.fromarray(pixels[0].movedim(0, -1).numpy())


if __name__ == "__main__":
    here, (prompt, picture, out, seed) = Path(__file__).resolve().parent, [*sys.argv[1:], "0"][:4]
    recipe = json.loads((here / "recipe.json").read_text())
    base, times = here / recipe["base"], recipe["timesteps"]
    base = base if base.is_dir() else recipe["base"]  # a name on the hub
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    steps = getattr(diffusers, recipe["scheduler"]).from_pretrained(here / "scheduler")
    steps.set_timesteps = partial(steps.set_timesteps, timesteps=times, sigmas=[t / 1000 for t in times])
    parts = {p.name: diffusers.WanTransformer3DModel.from_pretrained(p, dtype=dtype) for p in here.glob("transformer*")}
    parts |= {"scheduler": steps, "boundary_ratio": recipe["boundary_ratio"], "use_safetensors": True}
    precise = dict(default=dtype, vae=torch.float32, image_encoder=torch.float32)
    pipe = diffusers.WanImageToVideoPipeline.from_pretrained(base, dtype=precise, **parts).to(device)
    (_, t, h, w), latents = recipe["latent_shape"], out.endswith(".safetensors")
    size = {"height": h * pipe.vae_scale_factor_spatial, "width": w * pipe.vae_scale_factor_spatial}
    call = size | {key: recipe[key] for key in ("negative_prompt", "guidance_scale", "max_sequence_length")}
    call |= {"num_frames": (t - 1) * pipe.vae_scale_factor_temporal + 1, "num_inference_steps": len(times)}
    image = fit(Image.open(picture), **size)
    torch.manual_seed(int(seed))  # initial latents and fresh noise come from the global generator, in this order
    video = pipe(image, prompt, output_type="latent" if latents else "np", **call)[0]
    save_file({"latents": video}, out) if latents else diffusers.utils.export_to_video(video[0], out, recipe["fps"])
