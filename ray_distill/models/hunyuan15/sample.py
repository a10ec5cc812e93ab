"""Sample this few-step student with diffusers alone: python sample.py "a prompt" out.mp4|.safetensors [seed]"""

import json
import sys
from pathlib import Path

import diffusers
import torch
from diffusers.guiders import ClassifierFreeGuidance
from safetensors.torch import save_file

if __name__ == "__main__":
    here, (prompt, out, seed) = Path(__file__).resolve().parent, [*sys.argv[1:], "0"][:3]
    recipe = json.loads((here / "recipe.json").read_text())
    base = here / recipe["base"] if (here / recipe["base"]).is_dir() else recipe["base"]  # else a name on the hub
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    network = diffusers.HunyuanVideo15Transformer3DModel.from_pretrained(here / "transformer", dtype=dtype)
    parts = {"transformer": network, "guider": ClassifierFreeGuidance(guidance_scale=recipe["guidance_scale"])}
    parts |= {"scheduler": getattr(diffusers, recipe["scheduler"]).from_pretrained(here / "scheduler")}
    pipe = diffusers.HunyuanVideo15Pipeline.from_pretrained(base, dtype=dtype, use_safetensors=True, **parts).to(device)
    pipe.tokenizer_max_length = recipe["max_sequence_length"]
    call = {key: recipe[key] for key in ("height", "width", "negative_prompt")} | {"num_frames": recipe["frames"]}
    call |= {"sigmas": [t / 1000 for t in recipe["timesteps"]], "num_inference_steps": len(recipe["timesteps"])}
    latents = out.endswith(".safetensors")
    torch.manual_seed(int(seed))  # initial latents and fresh noise come from the global generator, in this order
    video = pipe(prompt, output_type="latent" if latents else "np", **call)[0]
    if latents:
        save_file({"latents": video.contiguous()}, out)
    else:
        diffusers.utils.export_to_video(video[0], out, recipe["fps"])
