"""Sample this causal few-step student from a picture with diffusers alone.

    python sample.py "a prompt" first_frame.png out.mp4|.safetensors [seed] [frames]

With frames the clip has that length, and is decoded and written chunk by chunk. Where the base has no VAE that
diffusers knows, a .safetensors of the picture's latents stands in the place of the picture: "first" or "held".
"""

import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sample_by_chunks import decode, roll_out, write_long
from sample_from_picture import Encoded, fit


class Picture:
    """Image condition of a clip, chunk by chunk: latents that replace its first frame, at level 0 (Wan 2.2 5B), or a
    mask and latents behind each frame's channels, with CLIP's states where the network reads them."""

    def __init__(self, pipe: Any, image: Image.Image, recipe: dict[str, Any], size: dict[str, int]) -> None:
        network, device = pipe.transformer, pipe._execution_device
        pixels = pipe.video_processor.preprocess(image, **size).to(device, dtype=torch.float32)
        placeholder = torch.zeros((), device=device)  # stands for the clip's noise
        clip = 1, recipe["latent_shape"][0], size["height"], size["width"], recipe["frames"]
        _, self.latents, *mask = pipe.prepare_latents(pixels, *clip, torch.float32, device, None, placeholder)
        self.in_place, self.patch = bool(mask), network.config.patch_size
        self.arguments = {}
        if network.config.image_dim is not None:
            self.arguments["encoder_hidden_states_image"] = pipe.encode_image(image, device).to(network.dtype)

    def enter(self, x: torch.Tensor, timestep: torch.Tensor, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(latents, timestep) for the network; ``x`` begins with the clip's frame ``start``."""
        if not self.in_place:
            return torch.cat([x, self.latents[:, :, start : start + x.shape[2]]], dim=1), timestep
        if start:
            return x, timestep
        _, height, width = self.patch
        by_frame = timestep.repeat(x.shape[2])
        by_frame[0] = 0
        by_token = by_frame.repeat_interleave(x.shape[3] // height * (x.shape[4] // width))
        return torch.cat([self.latents, x[:, :, 1:]], dim=2), by_token[None]

    def leave(self, v: torch.Tensor, x: torch.Tensor, sigma: float, start: int) -> torch.Tensor:
        """The velocity, in which that of the first frame leads to the picture."""
        if not self.in_place or start:
            return v
        first = (x[:, :, :1] - self.latents) / sigma if sigma else torch.zeros_like(self.latents)
        return torch.cat([first, v[:, :, 1:]], dim=2)


if __name__ == "__main__":
    here, (prompt, picture, out, seed, frames) = Path(__file__).resolve().parent, [*sys.argv[1:], "0", "0"][:5]
    recipe = json.loads((here / "recipe.json").read_text())
    base = here / recipe["base"]
    base = base if base.is_dir() else recipe["base"]  # a name on the hub
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    network = diffusers.WanTransformer3DModel.from_pretrained(here / "transformer", dtype=dtype)
    no_vae = {} if diffusers.WanImageToVideoPipeline.load_config(base)["vae"][0] else {"vae": None}
    parts = {"transformer": network, "dtype": dict(default=dtype, vae=torch.float32, image_encoder=torch.float32)}
    pipe = diffusers.WanImageToVideoPipeline.from_pretrained(base, use_safetensors=True, **parts, **no_vae).to(device)
    size = {"height": recipe["height"], "width": recipe["width"]}
    if no_vae:
        rows = load_file(picture)
        pipe.vae = Encoded(rows["held"][None] if "held" in rows else rows["first"][None, :, None]).to(device)
        _, _, h, w = recipe["latent_shape"]
        size = {"height": h * pipe.vae_scale_factor_spatial, "width": w * pipe.vae_scale_factor_spatial}
    image = Image.new("RGB", (size["width"], size["height"])) if no_vae else fit(Image.open(picture), **size)
    condition = Picture(pipe, image, recipe, size)
    guided, length = recipe["guidance_scale"] != 1.0, recipe["max_sequence_length"]
    text, null = pipe.encode_prompt(prompt, recipe["negative_prompt"], guided, max_sequence_length=length)
    both = torch.cat([text, null]) if guided else text
    torch.manual_seed(int(seed))  # all noise comes from the global generator, in the order of its use
    if int(frames):
        write_long(pipe, network, both, recipe, int(frames), out, condition)
        sys.exit()
    latents = roll_out(network, both, recipe, condition)
    if no_vae or out.endswith(".safetensors"):
        save_file({"latents": latents}, out)
    else:
        video = np.concatenate([*decode(pipe.vae, [latents])])
        diffusers.utils.export_to_video([*video], out, recipe["fps"])
