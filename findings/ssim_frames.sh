#!/usr/bin/env bash
# SSIM of one pair of frames by torchmetrics: in [0, 1] and [-1, 1], with and without data_range, alone and beside others, in bfloat16.
# Versions: torchmetrics 1.9.0, torch 2.13.0 (CPU).
# Guess: like PSNR it does not depend on the range if that is named, is refused if that is not, and is right to 0.01 in bfloat16.
# Seen: SSIM of frames in [-1, 1] is not that in [0, 1], both with the right data_range: 0.62 and 0.74 for one pair, whose means are near 0
# in the one and 0.5 in the other. Without data_range it takes that of the update: the pair has 0.66, and 0.74 beside a frame of all greys.
# In bfloat16 frames that are nearly flat have an SSIM of 1.27 (0.71 is right), and in float16 in [0, 255] NaN.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import torchmetrics
from torchmetrics.functional.image import peak_signal_noise_ratio as psnr
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

rng = torch.Generator().manual_seed(0)
frame = 0.45 + 0.1 * torch.rand(1, 3, 64, 64, generator=rng)
noisy = frame + 0.03 * torch.randn(frame.shape, generator=rng)
other = torch.rand(frame.shape, generator=rng)
flat = torch.full((1, 3, 64, 64), 0.5)
nearly = flat + 0.02 * torch.randn(flat.shape, generator=rng)


def check(what, seen, low, high):
    print(f"{what}: {seen:.3f}")
    assert low < seen < high, f"expected {low} to {high}"


print(f"torchmetrics {torchmetrics.__version__}, torch {torch.__version__}")
signed = [2 * x - 1 for x in (noisy, frame)]
levels = [psnr(noisy, frame, data_range=1.0).item(), psnr(*signed, data_range=2.0).item()]
print(f"PSNR in [0, 1] and in [-1, 1]: {levels}")
assert abs(levels[0] - levels[1]) < 1e-3
check("SSIM in [0, 1]", ssim(noisy, frame, data_range=1.0).item(), 0.73, 0.75)
check("SSIM in [-1, 1]", ssim(*signed, data_range=2.0).item(), 0.61, 0.63)
check("without data_range", ssim(noisy, frame).item(), 0.64, 0.67)
pair = ssim(torch.cat([noisy, other]), torch.cat([frame, other]), reduction="none")
check("the same beside a frame of all greys", pair[0].item(), 0.73, 0.75)
check("nearly flat frames in float32", ssim(nearly, flat, data_range=1.0).item(), 0.69, 0.72)
check("nearly flat frames in bfloat16", ssim(nearly.bfloat16(), flat.bfloat16(), data_range=1.0).item(), 1.05, 1.6)
half = ssim((255 * nearly).half(), (255 * flat).half(), data_range=255.0)
print(f"nearly flat frames in float16, in [0, 255]: {half.item()}")
assert half.isnan(), "expected NaN"
PYTHON
