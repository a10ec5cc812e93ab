"""Sample this few-step student with diffusers alone: python sample.py "a prompt" out.mp4|.safetensors [seed]"""

import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file


def fix_timesteps(scheduler: Any, times: list[float]) -> Any:
    """Make ``scheduler`` return the recipe's ``times``, although LTXPipeline asks for its own sigmas."""
    steps, own = {"timesteps": times, "sigmas": [t / 1000 for t in times]}, scheduler.set_timesteps

    def set_timesteps(  # diffusers looks for these names in the signature
        num_inference_steps: Any = None, device: Any = None, sigmas: Any = None, mu: Any = None, timesteps: Any = None
    ) -> None:
        own(device=device, **steps)

    scheduler.set_timesteps = set_timesteps
    return scheduler


if __name__ == "__main__":
    here, (prompt, out, seed) = Path(__file__).resolve().parent, [*sys.argv[1:], "0"][:3]
    recipe = json.loads((here / "recipe.json").read_text())
    base = here / recipe["base"] if (here / recipe["base"]).is_dir() else recipe["base"]  # else a name on the hub
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    steps = getattr(diffusers, recipe["scheduler"]).from_pretrained(here / "scheduler")
    network = diffusers.LTXVideoTransformer3DModel.from_pretrained(here / "transformer", dtype=dtype)
    parts = {"transformer": network, "scheduler": fix_timesteps(steps, recipe["timesteps"]), "use_safetensors": True}
    pipe = diffusers.LTXPipeline.from_pretrained(base, dtype=dtype, **parts).to(device)
    if recipe["vae_tiling"]:
        pipe.vae.enable_tiling()
    (_, t, h, w), latents = recipe["latent_shape"], out.endswith(".safetensors")
    call = {key: recipe[key] for key in ("height", "width", "negative_prompt", "guidance_scale", "max_sequence_length")}
    torch.manual_seed(int(seed))  # initial latents and fresh noise come from the global generator, in this order
    kind = "latent" if latents else "np"
    call |= {"num_frames": recipe["frames"], "num_inference_steps": len(recipe["timesteps"])}
    video = pipe(prompt, output_type=kind, **call)[0]
    if latents:
        save_file({"latents": video.transpose(1, 2).unflatten(2, (t, h, w)).contiguous()}, out)
    else:
        diffusers.utils.export_to_video(video[0], out, recipe["fps"])
