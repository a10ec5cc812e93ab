"""Sample this few-step student with diffusers alone: python sample.py "a prompt" out.mp4|.safetensors [seed]"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils.torch_utils import randn_tensor
from safetensors.torch import save_file


def scales(sigma: float) -> tuple[float, float]:
    """a and b of the level sigma = b / (a + b), with a^2 + b^2 = 1."""
    return (1 - sigma) / math.hypot(sigma, 1 - sigma), sigma / math.hypot(sigma, 1 - sigma)


class FewSteps(diffusers.CogVideoXDDIMScheduler):
    """Scheduler that steps through a recipe's levels sigma, on z = a x_0 + b eps."""

    def follow(self, times: list[float], kind: str) -> "FewSteps":
        """Use the recipe's ``times``, 1000 sigma, with fresh noise after each step for the ``kind`` "sde"."""
        a, b = self.alphas_cumprod.double().sqrt(), (1 - self.alphas_cumprod.double()).sqrt()
        table, levels = b / (a + b), torch.tensor(times, dtype=torch.float64) / 1000
        upper = torch.searchsorted(table, levels).clamp(1, len(table) - 1)
        below, above = table[upper - 1], table[upper]
        steps = upper - 1 + ((levels - below) / (above - below)).clamp(0, 1)
        self.recipe = steps.float(), [*levels.tolist(), 0.0], kind == "sde"
        return self

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        self.timesteps = self.recipe[0].to(device)

    def step(self, v: torch.Tensor, timestep: Any, z: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        """z at the next level, from ``v`` = a eps - b x_0 at ``timestep``."""
        number, (_, levels, fresh) = self.timesteps.tolist().index(float(timestep)), self.recipe
        (a, b), (a_next, b_next) = map(scales, levels[number : number + 2])
        x_0, eps = a * z - b * v, b * z + a * v
        if fresh and b_next:
            eps = randn_tensor(z.shape, device=z.device, dtype=z.dtype)
        return (a_next * x_0 + b_next * eps,)


if __name__ == "__main__":
    here, (prompt, out, seed) = Path(__file__).resolve().parent, [*sys.argv[1:], "0"][:3]
    recipe = json.loads((here / "recipe.json").read_text())
    base = here / recipe["base"] if (here / recipe["base"]).is_dir() else recipe["base"]  # else a name on the hub
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    steps = FewSteps.from_pretrained(here / "scheduler").follow(recipe["timesteps"], recipe["kind"])
    network = diffusers.CogVideoXTransformer3DModel.from_pretrained(here / "transformer", dtype=dtype)
    parts = {"transformer": network, "scheduler": steps, "use_safetensors": True}
    pipe = diffusers.CogVideoXPipeline.from_pretrained(base, dtype=dtype, **parts).to(device)
    if recipe["vae_tiling"]:
        pipe.vae.enable_tiling()
    latents = out.endswith(".safetensors")
    call = {key: recipe[key] for key in ("height", "width", "negative_prompt", "guidance_scale", "max_sequence_length")}
    call |= {"num_frames": recipe["frames"], "num_inference_steps": len(recipe["timesteps"])}
    torch.manual_seed(int(seed))  # initial latents and fresh noise come from the global generator, in this order
    video = pipe(prompt, output_type="latent" if latents else "np", **call)[0]
    if latents:
        save_file({"latents": video.transpose(1, 2).contiguous()}, out)
    else:
        diffusers.utils.export_to_video(video[0], out, recipe["fps"])
