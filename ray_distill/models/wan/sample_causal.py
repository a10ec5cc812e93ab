"""Sample this causal few-step student with diffusers alone: python sample.py "a prompt" out.mp4|.safetensors [seed]"""

import json
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import diffusers
import torch
from causal_wan import causal_attention
from safetensors.torch import save_file


@torch.no_grad()
def roll_out(network, text, recipe):
    """Latents [1, C, T, H, W], chunk by chunk; ``text`` [1, L, D], or [2, L, D] with the negative prompt's behind."""
    chunks, shape, scale = recipe["chunks"], (1, *recipe["latent_shape"]), recipe["guidance_scale"]
    noise = cache(lambda i: torch.randn(shape, device=text.device))  # for the whole clip; -1 is what it starts from
    window = chunks["window"] and SimpleNamespace(**chunks["window"])
    past, clip, lengths = SimpleNamespace(frames=0, chunks={}, window=window), [], [1] * chunks["independent_first"]
    lengths += [chunks["frames"]] * ((shape[2] - len(lengths)) // chunks["frames"])
    last = max(len(recipe["timesteps"]), len(chunks["first_timesteps"]))

    def velocity(x, sigma, remember=False):
        with causal_attention(network, x.shape[2], cache=past, remember=remember):
            timestep = torch.full((len(text),), 1000 * sigma, device=text.device)
            x = x.expand(len(text), -1, -1, -1, -1).to(network.dtype)
            v = network(x, timestep, text.to(network.dtype), return_dict=False)[0].float()
        return v if len(text) == 1 else torch.lerp(v[1:], v[:1], scale)

    for number, length in enumerate(lengths):
        where = slice(past.frames, past.frames + length)
        timesteps = (chunks["first_timesteps"] if number == 0 else ()) or recipe["timesteps"]
        sigmas = [t / 1000 for t in timesteps]
        x = noise(-1)[:, :, where]
        for i, (sigma, following) in enumerate(zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
            v = velocity(x, sigma)
            x_0 = x - sigma * v
            eps = noise(i)[:, :, where] if recipe["kind"] == "sde" and following else x + (1 - sigma) * v
            x = (1 - following) * x_0 + following * eps
        clip.append(x)
        if where.stop < shape[2]:  # what later chunks will see of this one
            c = chunks["context_timestep"] / 1000
            velocity((1 - c) * x + c * noise(last)[:, :, where] if c else x, c, remember=True)
    return torch.cat(clip, dim=2)


if __name__ == "__main__":
    here, (prompt, out, seed) = Path(__file__).resolve().parent, [*sys.argv[1:], "0"][:3]
    recipe = json.loads((here / "recipe.json").read_text())
    base = here / recipe["base"]
    base = base if base.is_dir() else recipe["base"]  # a name on the hub
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    network = diffusers.WanTransformer3DModel.from_pretrained(here / "transformer", dtype=dtype)
    no_vae = {} if diffusers.WanPipeline.load_config(base)["vae"][0] else {"vae": None}
    parts = {"transformer": network, "dtype": {"default": dtype, "vae": torch.float32}}
    pipe = diffusers.WanPipeline.from_pretrained(base, use_safetensors=True, **parts, **no_vae).to(device)
    guided, length = recipe["guidance_scale"] != 1.0, recipe["max_sequence_length"]
    text, null = pipe.encode_prompt(prompt, recipe["negative_prompt"], guided, max_sequence_length=length)
    torch.manual_seed(int(seed))  # all noise comes from the global generator, in the order of its use
    latents = roll_out(network, torch.cat([text, null]) if guided else text, recipe)
    if no_vae or out.endswith(".safetensors"):
        save_file({"latents": latents}, out)
    else:
        pipe.scheduler.set_timesteps = lambda *_, **__: setattr(pipe.scheduler, "timesteps", [])  # decode, no more
        size = {"height": recipe["height"], "width": recipe["width"], "num_frames": recipe["frames"]}
        video = pipe(prompt_embeds=text, latents=latents, guidance_scale=1.0, output_type="np", **size)[0]
        diffusers.utils.export_to_video(video[0], out, recipe["fps"])
