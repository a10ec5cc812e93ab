#!/usr/bin/env bash
# What the video VAEs of diffusers make of a number of frames that their stride does not fit.
# Versions: diffusers 0.42.1, torch 2.13.0 (CPU), transformers 5.23.0. Tiny random models of the real classes.
# Guess: encode raises, or pads the last frame; a decode gives back stride x (latents - 1) + 1 frames.
# Seen: four ways. Wan, LTX-Video and Mochi drop the frames at the end without a word (LTX: 8 of 16). HunyuanVideo and CogVideoX
# let them change the last latent, which decodes to fewer frames. HunyuanVideo 1.5 and LTX-2 raise an error of reshaping. CogVideoX decodes
# an even number of latents to 4 n frames, an odd number to 4 n - 3: five frames come back as eight.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import warnings

warnings.filterwarnings("ignore")
import diffusers
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLWan,
)

four, five = (8,) * 4, (1,) * 5
MODELS = {
    "Wan": lambda: AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1] * 4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
    "LTX-Video": lambda: AutoencoderKLLTXVideo(latent_channels=4, block_out_channels=four, layers_per_block=five, decoder_block_out_channels=four, decoder_layers_per_block=five),
    "Mochi": lambda: AutoencoderKLMochi(latent_channels=4, encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4, layers_per_block=five),
    "HunyuanVideo": lambda: AutoencoderKLHunyuanVideo(latent_channels=4, block_out_channels=four, layers_per_block=1, norm_num_groups=2),
    "CogVideoX": lambda: AutoencoderKLCogVideoX(latent_channels=4, block_out_channels=four, layers_per_block=1, norm_num_groups=2),
    "HunyuanVideo 1.5": lambda: AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(32,) * 5, layers_per_block=1),
}
SEEN = {  # frames in -> latent frames -> frames out; "dropped" where the last frame does not change the latents
    "Wan": {5: "2 5", 8: "2 5 dropped", 9: "3 9"},
    "LTX-Video": {5: "1 1 dropped", 9: "2 9", 16: "2 9 dropped"},
    "Mochi": {7: "2 7", 9: "2 7 dropped", 13: "3 13"},
    "HunyuanVideo": {5: "2 5", 8: "2 5", 9: "3 9"},
    "CogVideoX": {5: "2 8", 8: "2 8", 9: "3 9", 13: "4 16"},
    "HunyuanVideo 1.5": {5: "2 5", 8: "RuntimeError", 9: "3 9"},
}


@torch.no_grad()
def counts(vae, frames):
    video = torch.randn(1, 3, frames, 64, 64)
    other = video.clone()
    other[:, :, -1] += 1
    try:
        latents = vae.encode(video).latent_dist.mode()
    except RuntimeError:
        return "RuntimeError"
    same = torch.equal(latents, vae.encode(other).latent_dist.mode())
    return f"{latents.shape[2]} {vae.decode(latents).sample.shape[2]}{' dropped' if same else ''}"


print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
torch.manual_seed(0)
for name, make in MODELS.items():
    vae = make().eval()
    for frames, expected in SEEN[name].items():
        seen = counts(vae, frames)
        print(f"{name}: {frames} frames -> {seen}")
        assert seen == expected, f"expected {expected}"
PYTHON
