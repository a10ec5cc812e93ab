#!/usr/bin/env bash
# VideoProcessor.preprocess_video on one clip given as PIL images, as uint8 arrays and as tensors of two ranges.
# Versions: diffusers 0.42.1, torch 2.13.0, pillow 13.0.0.
# Guess: the type tells the range, uint8 is divided by 255, and all ways resize alike.
# Seen: uint8 arrays and tensors are taken for [0, 1]: 128 becomes 255. Floats are asked for their least value, each video by itself: one below 0
# means [-1, 1] already, so that of two clips of one list the darker comes out as it is and the brighter stretched. PIL images are resized
# by Lanczos, arrays and tensors by the nearest pixel, and sizes off multiples of 8 are resized, not cropped.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 numpy==2.4.6 pillow==13.0.0
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import warnings

import diffusers
import numpy as np
import torch
from diffusers.video_processor import VideoProcessor
from PIL import Image

warnings.simplefilter("ignore")
processor = VideoProcessor(vae_scale_factor=8)
grey = np.full((5, 32, 32, 3), 128, np.uint8)
channels_first = torch.from_numpy(grey).permute(0, 3, 1, 2)
print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
for name, clip, expected in (
    ("PIL images", [Image.fromarray(frame) for frame in grey], 1 / 255),
    ("floats in [0, 1]", grey / 255.0, 1 / 255),
    ("uint8 array", grey, 255.0),
    ("uint8 tensor", channels_first, 255.0),
):
    seen = processor.preprocess_video(clip).unique()
    print(f"{name}: 128 becomes {seen.tolist()}")
    assert len(seen) == 1 and abs(seen.item() - expected) < 1e-5, f"expected {expected}"
seen = [video.unique().item() for video in processor.preprocess_video([torch.full((5, 3, 32, 32), x) for x in (0.2, -0.2)])]
print(f"two clips of 0.2 and -0.2 become {seen[0]:.2f} and {seen[1]:.2f}")
assert np.allclose(seen, [-0.6, -0.2]), "expected -0.6 and -0.2"
noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
pil = processor.preprocess(Image.fromarray(noise), 32, 48)[0]
array = processor.preprocess(noise / 255.0, 32, 48)[0]
nearest = torch.from_numpy(noise[::2, ::2] / 127.5 - 1).permute(2, 0, 1)
lanczos = torch.from_numpy(np.array(Image.fromarray(noise).resize((48, 32), Image.Resampling.LANCZOS)) / 127.5 - 1).permute(2, 0, 1)
print(f"half size: PIL is Lanczos to {(pil - lanczos).abs().max():.1e}, an array every second pixel to {(array - nearest).abs().max():.1e}")
assert torch.allclose(pil.double(), lanczos, atol=1e-6) and torch.allclose(array.double(), nearest, atol=1e-6)
odd = processor.preprocess(Image.fromarray(noise[:33, :50]))[0]
print(f"33 x 50 becomes {odd.shape[1]} x {odd.shape[2]}")
assert odd.shape[1:] == (32, 48)
cropped = torch.from_numpy(noise[:32, :48] / 127.5 - 1).permute(2, 0, 1)
assert (odd.double() - cropped).abs().mean() > 0.05, "expected another picture than a crop"
PYTHON
