"""Sample this few-step student with diffusers alone: python sample.py "a prompt" out.mp4|.safetensors [seed]"""

import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file


def guidance(scale: float) -> dict[str, float]:
    """Arguments for one guidance scale for picture and sound, with the pipeline's other guidance terms switched off."""
    one = {"guidance_scale": scale, "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
    return one | {f"audio_{name}": value for name, value in one.items()}


def pack(pipe: Any, video: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
    """Normalise and pack the latents that the pipeline returns, into [B, C, t h w + L, 1, 1]."""
    mean, std = (x.view(1, -1, 1, 1, 1) for x in (pipe.vae.latents_mean, pipe.vae.latents_std))
    video = (video - mean) * pipe.vae.config.scaling_factor / std
    tokens = (audio.transpose(1, 2).flatten(2) - pipe.audio_vae.latents_mean) / pipe.audio_vae.latents_std
    return torch.cat([video.flatten(2), tokens.transpose(1, 2)], dim=2)[..., None, None].contiguous()


if __name__ == "__main__":
    here, (prompt, out, seed) = Path(__file__).resolve().parent, [*sys.argv[1:], "0"][:3]
    recipe = json.loads((here / "recipe.json").read_text())
    base = here / recipe["base"] if (here / recipe["base"]).is_dir() else recipe["base"]  # else a name on the hub
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    steps = getattr(diffusers, recipe["scheduler"]).from_pretrained(here / "scheduler")
    network = diffusers.LTX2VideoTransformer3DModel.from_pretrained(here / "transformer", dtype=dtype)
    parts = {"transformer": network, "scheduler": steps, "use_safetensors": True}
    pipe = diffusers.LTX2Pipeline.from_pretrained(base, dtype=dtype, **parts).to(device)
    call = {key: recipe[key] for key in ("height", "width", "negative_prompt", "max_sequence_length")}
    call |= {"num_frames": recipe["frames"], "frame_rate": recipe["fps"], **guidance(recipe["guidance_scale"])}
    call |= {"sigmas": [t / 1000 for t in recipe["timesteps"]], "num_inference_steps": len(recipe["timesteps"])}
    latents = out.endswith(".safetensors")
    torch.manual_seed(int(seed))  # initial latents and fresh noise come from the global generator, in this order
    video, audio = pipe(prompt, output_type="latent" if latents else "np", return_dict=False, **call)
    if latents:
        save_file({"latents": pack(pipe, video, audio)}, out)
    else:
        rate = pipe.vocoder.config.output_sampling_rate
        diffusers.utils.encode_video(video[0], recipe["fps"], out, audio[0].float().cpu(), rate)
