#!/usr/bin/env bash
# SSIM and PSNR of videos by torchmetrics: what is the mean taken over?
# Versions: torchmetrics 1.9.0, torch 2.13.0 (CPU).
# Guess: SSIM of [B, C, T, H, W] is the mean over frames; PSNR of a set is the mean of the videos' PSNR.
# Seen: time is a third axis of SSIM's window: fewer than six frames raise, and a flicker that single frames do not show costs. PSNR pools
# squared errors: one good and one bad video have 12.1, the mean of their own values is 24.6.
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
from torchmetrics.image import PeakSignalNoiseRatio

rng = torch.Generator().manual_seed(0)


def frames(video):
    return video.transpose(1, 2).flatten(0, 1)


def check(what, seen, holds):
    print(f"{what}: {seen}")
    assert holds, what


print(f"torchmetrics {torchmetrics.__version__}, torch {torch.__version__}")
still = torch.rand(1, 3, 1, 64, 64, generator=rng).expand(1, 3, 12, 64, 64)
flicker = still + 0.2 * torch.tensor([1.0, -1.0] * 6).view(1, 1, 12, 1, 1)
whole, single = ssim(flicker, still, data_range=1.0).item(), ssim(frames(flicker), frames(still), data_range=1.0).item()
check("flicker of +-0.2: SSIM of the video, mean of its frames'", (round(whole, 3), round(single, 3)), abs(whole - single) > 0.02)
try:
    ssim(flicker[:, :, :5], still[:, :, :5], data_range=1.0)
    raised = False
except RuntimeError as error:
    raised = "Padding size" in str(error)
check("five frames raise", raised, raised)

good, bad = torch.rand(2, 3, 8, 64, 64, generator=rng)
near = good + 0.01 * torch.randn(good.shape, generator=rng)
far = bad + 0.35 * torch.randn(bad.shape, generator=rng)
metric = PeakSignalNoiseRatio(data_range=1.0)
metric.update(torch.stack([near, far]), torch.stack([good, bad]))
pooled, mean = metric.compute().item(), (psnr(near, good, data_range=1.0) + psnr(far, bad, data_range=1.0)).item() / 2
check("PSNR of the set, mean of the videos' own", (round(pooled, 1), round(mean, 1)), round(pooled, 1) == 12.1 and round(mean, 1) == 24.6)
PYTHON
