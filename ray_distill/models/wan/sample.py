"""Sample this few-step student with diffusers alone: python sample.py "a prompt" out.mp4|.safetensors [seed]"""

import json
import sys
from functools import partial
from pathlib import Path

import diffusers
import torch
from safetensors.torch import save_file

if __name__ == "__main__":
    here, (prompt, out, seed) = Path(__file__).resolve().parent, [*sys.argv[1:], "0"][:3]
    recipe = json.loads((here / "recipe.json").read_text())
    base, times = here / recipe["base"], recipe["timesteps"]
    base = base if base.is_dir() else recipe["base"]  # a name on the hub
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    steps = getattr(diffusers, recipe["scheduler"]).from_pretrained(here / "scheduler")
    # Else the pipeline asks for steps of its own: no key of a scheduler's file can hold the student's.
    steps.set_timesteps = partial(steps.set_timesteps, timesteps=times, sigmas=[t / 1000 for t in times])
    no_vae = {} if diffusers.WanPipeline.load_config(base)["vae"][0] else {"vae": None}
    parts = {p.name: diffusers.WanTransformer3DModel.from_pretrained(p, dtype=dtype) for p in here.glob("transformer*")}
    parts |= {"scheduler": steps, "boundary_ratio": recipe["boundary_ratio"], "use_safetensors": True} | no_vae
    pipe = diffusers.WanPipeline.from_pretrained(base, dtype=dict(default=dtype, vae=torch.float32), **parts).to(device)
    if recipe["vae_tiling"] and not no_vae:
        pipe.vae.enable_tiling()
    latents, (_, t, h, w) = bool(no_vae) or out.endswith(".safetensors"), recipe["latent_shape"]
    size = {"height": h * pipe.vae_scale_factor_spatial, "width": w * pipe.vae_scale_factor_spatial}
    size |= {"num_frames": (t - 1) * pipe.vae_scale_factor_temporal + 1, "num_inference_steps": len(times)}
    call = size | {key: recipe[key] for key in ("negative_prompt", "guidance_scale", "max_sequence_length")}
    torch.manual_seed(int(seed))  # initial latents and fresh noise come from the global generator, in this order
    video = pipe(prompt, output_type="latent" if latents else "np", **call)[0]
    save_file({"latents": video}, out) if latents else diffusers.utils.export_to_video(video[0], out, recipe["fps"])
