"""Sample this causal few-step student with diffusers alone.

    python sample.py "a prompt" out.mp4|.safetensors [seed] [frames]

With frames the clip has that length, and is decoded and written chunk by chunk.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from causal_wan import causal_attention
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from safetensors.torch import save_file


def roll_out(network: Any, text: torch.Tensor, recipe: dict[str, Any], picture: Any = None) -> torch.Tensor:
    """Latents [1, C, T, H, W] of a clip; ``text`` [1, L, D], or [2, L, D] with the negative prompt second. ``picture``
    is the picture from which the clip begins, if any."""
    chunks, shape = recipe["chunks"], (1, *recipe["latent_shape"])
    whole = cache(lambda i: torch.randn(shape, device=text.device))  # of the whole clip; -1 is the initial noise
    lengths = [1] * chunks["independent_first"]
    lengths += [chunks["frames"]] * ((shape[2] - len(lengths)) // chunks["frames"])

    def noise(i: int, where: slice) -> torch.Tensor:
        return whole(i)[:, :, where]

    return torch.cat([*roll(network, text, recipe, lengths, noise, picture)], dim=2)


@torch.no_grad()
def roll(
    network: Any,
    text: torch.Tensor,
    recipe: dict[str, Any],
    lengths: Iterable[int],
    noise: Callable[[int, slice], torch.Tensor],
    picture: Any = None,
) -> Iterator[torch.Tensor]:
    """Yield the latents [1, C, t, H, W] of chunks of ``lengths``; ``noise(i, where)`` is that of step i, frames
    where."""
    chunks, scale = recipe["chunks"], recipe["guidance_scale"]
    window = chunks["window"] and SimpleNamespace(**chunks["window"])
    past, where, x = SimpleNamespace(frames=0, chunks={}, window=window), slice(0), None
    steps = max(len(recipe["timesteps"]), len(chunks["first_timesteps"]))

    def velocity(x: torch.Tensor, sigma: float, remember: bool = False) -> torch.Tensor:
        start, rows, timestep = past.frames, len(text), torch.full((1,), 1000 * sigma, device=text.device)
        latents, timestep = picture.enter(x, timestep, start) if picture else (x, timestep)
        more = {key: states.expand(rows, -1, -1) for key, states in picture.arguments.items()} if picture else {}
        with causal_attention(network, x.shape[2], cache=past, remember=remember):
            latents = latents.expand(rows, -1, -1, -1, -1).to(network.dtype)
            timestep = timestep.expand(rows, *timestep.shape[1:])
            v = network(latents, timestep, text.to(network.dtype), return_dict=False, **more)[0].float()
        v = v if rows == 1 else torch.lerp(v[1:], v[:1], scale)
        return picture.leave(v, x, sigma, start) if picture else v

    for number, length in enumerate(lengths):
        if x is not None:  # cache the previous chunk for later ones
            c = chunks["context_timestep"] / 1000
            velocity((1 - c) * x + c * noise(steps, where) if c else x, c, remember=True)
        where = slice(past.frames, past.frames + length)
        timesteps = (chunks["first_timesteps"] if number == 0 else ()) or recipe["timesteps"]
        sigmas = [t / 1000 for t in timesteps]
        x = noise(-1, where)
        for i, (sigma, following) in enumerate(zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
            v = velocity(x, sigma)
            x_0 = x - sigma * v
            eps = noise(i, where) if recipe["kind"] == "sde" and following else x + (1 - sigma) * v
            x = (1 - following) * x_0 + following * eps
        yield x


@torch.no_grad()
def decode(vae: Any, chunks: Iterable[torch.Tensor]) -> Iterator[Any]:
    """Yield pixels [t, H, W, 3] in [0, 1] frame by frame, with a cache, as diffusers decodes a whole clip."""
    per_channel = (1, -1, 1, 1, 1)
    mean, std = (torch.tensor(v).view(per_channel) for v in (vae.config.latents_mean, vae.config.latents_std))
    vae.clear_cache()
    first = True
    for chunk in chunks:
        for z in vae.post_quant_conv(chunk.to(vae.dtype) * std.to(chunk) + mean.to(chunk)).split(1, dim=2):
            vae._conv_idx = [0]
            x = vae.decoder(z, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=first)
            first = False
            x = unpatchify(x, patch_size=vae.config.patch_size) if vae.config.patch_size else x
            yield (x[0].float().clamp(-1, 1) / 2 + 0.5).permute(1, 2, 3, 0).cpu().numpy()
    vae.clear_cache()


def write_long(
    pipe: Any, network: Any, text: torch.Tensor, recipe: dict[str, Any], frames: int, out: str, picture: Any = None
) -> None:
    """Write an mp4 of ``frames`` frames with only a chunk and its window in memory."""
    import imageio.v2 as imageio

    chunks, (channels, _, *size) = recipe["chunks"], recipe["latent_shape"]
    assert chunks["window"] or frames <= recipe["frames"], "without a window, clips can be no longer than in training"
    bounded = picture is not None and not picture.in_place
    assert not bounded or frames <= recipe["frames"], "the picture's latents are no longer than the clips in training"

    def lengths() -> Iterator[int]:
        yield 1 if chunks["independent_first"] else chunks["frames"]
        while True:
            yield chunks["frames"]

    def noise(_: int, where: slice) -> torch.Tensor:  # called once per step and chunk
        return torch.randn(1, channels, where.stop - where.start, *size, device=text.device)

    with imageio.get_writer(out, fps=recipe["fps"], quality=8, macro_block_size=1) as writer:
        left = frames
        for pixels in decode(pipe.vae, roll(network, text, recipe, lengths(), noise, picture)):
            for frame in pixels[:left]:
                writer.append_data((frame * 255).round().astype("uint8"))
            left -= len(pixels)
            if left <= 0:
                return


if __name__ == "__main__":
    here, (prompt, out, seed, frames) = Path(__file__).resolve().parent, [*sys.argv[1:], "0", "0"][:4]
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
    both = torch.cat([text, null]) if guided else text
    torch.manual_seed(int(seed))  # all noise comes from the global generator, in the order of its use
    if int(frames):
        write_long(pipe, network, both, recipe, int(frames), out)
        sys.exit()
    latents = roll_out(network, both, recipe)
    if no_vae or out.endswith(".safetensors"):
        save_file({"latents": latents}, out)
    else:
        pipe.scheduler.set_timesteps = lambda *_, **__: setattr(pipe.scheduler, "timesteps", [])  # decode, no more
        size = {"height": recipe["height"], "width": recipe["width"], "num_frames": recipe["frames"]}
        video = pipe(prompt_embeds=text, latents=latents, guidance_scale=1.0, output_type="np", **size)[0]
        diffusers.utils.export_to_video(video[0], out, recipe["fps"])
