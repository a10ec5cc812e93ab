#!/usr/bin/env bash
# Causal video VAEs: is a clip's beginning encoded and decoded as it would be alone?
# Versions: diffusers 0.42.1, torch 2.13.0 (tiny VAEs with random weights, float32).
# Guess: yes for each VAE whose first latent frame stands for one picture: causal convolutions see no later frame.
# Seen: yes for Wan, HunyuanVideo 1.5 and Mochi. HunyuanVideo's and CogVideoX's group norms take their mean over time as well, so that
# later frames change earlier latents, and the first is not that of the first picture. LTX-Video encodes causally and decodes with later
# latents. A condition made of the first picture alone, and a decode chunk by chunk, are exact for the first three alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch

torch.manual_seed(0)
WIDTHS = (8, 8, 8, 8)
VAES = {  # name: (VAE, frames a latent frame, encodes causally, decodes causally)
    "Wan": (
        diffusers.AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1), 4, True, True
    ),
    "HunyuanVideo 1.5": (
        diffusers.AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(16,) * 5, layers_per_block=1), 4, True, True
    ),
    "Mochi": (
        diffusers.AutoencoderKLMochi(
            latent_channels=4,
            encoder_block_out_channels=(32,) * 4,
            decoder_block_out_channels=(32,) * 4,
            layers_per_block=(1,) * 5,
        ), 6, True, True
    ),
    "LTX-Video": (
        diffusers.AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=WIDTHS,
            decoder_block_out_channels=WIDTHS,
            layers_per_block=(1,) * 5,
            decoder_layers_per_block=(1,) * 5,
        ), 8, True, False
    ),
    "HunyuanVideo": (
        diffusers.AutoencoderKLHunyuanVideo(
            latent_channels=4, block_out_channels=WIDTHS, layers_per_block=1, norm_num_groups=2
        ), 4, False, False
    ),
    "CogVideoX": (
        diffusers.AutoencoderKLCogVideoX(
            block_out_channels=WIDTHS,
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=4,
            sample_height=64,
            sample_width=64,
        ), 4, False, False
    ),
}


@torch.no_grad()
def misses(vae, stride):
    """Largest difference that later frames make: to the first latent frame, and to the decode of two latents of three."""
    vae.eval()
    x = torch.randn(1, 3, 1 + 2 * stride, 64, 64)
    latents, first = (vae.encode(part).latent_dist.mean for part in (x, x[:, :, :1]))
    z = torch.randn_like(latents)
    whole, part = (vae.decode(part).sample for part in (z, z[:, :, :2]))
    frames = min(whole.shape[2], part.shape[2])
    return (latents[:, :, :1] - first).abs().max().item(), (whole[:, :, :frames] - part[:, :, :frames]).abs().max().item()


torch.manual_seed(0)
print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
for name, (vae, stride, encodes, decodes) in VAES.items():
    encode, decode = misses(vae, stride)
    print(f"{name}: first latent {encode:.1e} from that of the picture alone; decoded beginning {decode:.1e} from that of all")
    assert (encode < 1e-4, decode < 1e-4) == (encodes, decodes), f"expected causal: {encodes}, {decodes}"
PYTHON
