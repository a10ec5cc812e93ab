"""Sample this few-step student with diffusers alone: python sample.py "a prompt" [IMAGE] out.mp4|.safetensors [seed]

Only a student from images (`from_image` in recipe.json) takes IMAGE.
"""

import json
import sys
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers.guiders import ClassifierFreeGuidance
from PIL import Image, ImageOps
from safetensors.torch import save_file
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


if __name__ == "__main__":
    here, (prompt, *rest) = Path(__file__).resolve().parent, sys.argv[1:]
    recipe = json.loads((here / "recipe.json").read_text())
    picture, (out, seed) = rest.pop(0) if recipe["from_image"] else None, [*rest, "0"][:2]
    base = here / recipe["base"] if (here / recipe["base"]).is_dir() else recipe["base"]  # else a name on the hub
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    network = diffusers.HunyuanVideo15Transformer3DModel.from_pretrained(here / "transformer", dtype=dtype)
    parts = {"transformer": network, "guider": ClassifierFreeGuidance(guidance_scale=recipe["guidance_scale"])}
    parts |= {"scheduler": getattr(diffusers, recipe["scheduler"]).from_pretrained(here / "scheduler")}
    of = diffusers.HunyuanVideo15ImageToVideoPipeline if picture else diffusers.HunyuanVideo15Pipeline
    pipe = of.from_pretrained(base, dtype=dtype, use_safetensors=True, **parts).to(device)
    if recipe["vae_tiling"]:
        pipe.vae.enable_tiling()
    pipe.tokenizer_max_length = recipe["max_sequence_length"]
    call = {"negative_prompt": recipe["negative_prompt"], "num_frames": recipe["frames"]}
    # Else the scheduler chooses steps of its own, and no key of its file can name the student's.
    call |= {"sigmas": [t / 1000 for t in recipe["timesteps"]], "num_inference_steps": len(recipe["timesteps"])}
    size = {key: recipe[key] for key in ("height", "width")}
    if picture:  # the pipeline would choose a size by the picture's aspect ratio
        pipe.video_processor.calculate_default_height_width = lambda **_: tuple(size.values())
        call["image"] = fit(Image.open(picture), **size)
    else:
        call |= size
    latents = out.endswith(".safetensors")
    torch.manual_seed(int(seed))  # initial latents and fresh noise come from the global generator, in this order
    video = pipe(prompt=prompt, output_type="latent" if latents else "np", **call)[0]
    if latents:
        save_file({"latents": video.contiguous()}, out)
    else:
        diffusers.utils.export_to_video(video[0], out, recipe["fps"])
