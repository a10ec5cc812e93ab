#!/usr/bin/env bash
# The decay of diffusers' EMAModel(decay=0.9999) without use_ema_warmup, and with it, over a run's updates.
# Versions: diffusers 0.42.1, torch 2.13.0 (CPU).
# Guess: use_ema_warmup=False, the default, means a constant decay; True raises it slowly.
# Seen: without it the decay is min(decay, n / (n + 9)), 0 at the first update: 0.917 after 100 updates, 0.991 after 1,000, and 0.9999
# only after 90,000. With it the decay is 1 - n^(-2/3): 0.954 and 0.990, so higher than without until some 700 updates. A loop with the
# constant decay that the setting names keeps 0.9048 of the first weights after 1,000 updates; EMAModel keeps none of them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
from diffusers.training_utils import EMAModel


def decays(updates, **how):
    """(decay after each update, share of the first weights in the average at the end)."""
    average, seen = EMAModel([torch.nn.Parameter(torch.ones(1))], decay=0.9999, **how), []
    for _ in range(updates):
        average.step([torch.nn.Parameter(torch.zeros(1))])
        seen.append(average.cur_decay_value)
    return seen, average.shadow_params[0].item()


print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
without, kept = decays(1000)
warm, _ = decays(1000, use_ema_warmup=True)
for updates in (1, 2, 10, 100, 1000):
    print(f"after {updates} updates: {without[updates - 1]:.4f} without use_ema_warmup, {warm[updates - 1]:.4f} with it")
    expected = 0 if updates == 1 else updates / (updates + 9)
    assert abs(without[updates - 1] - expected) < 1e-9
assert warm[99] > without[99] and warm[999] < without[999]
print(f"share of the first weights after 1,000 updates: {kept}; at a constant 0.9999 it would be {0.9999**1000:.4f}")
assert kept == 0
late = EMAModel([torch.nn.Parameter(torch.ones(1))], decay=0.9999)
print(f"decay after 80,000 and 90,000 updates: {late.get_decay(80_000):.6f}, {late.get_decay(90_000):.6f}")
assert late.get_decay(80_000) < 0.9999 == late.get_decay(90_000)
PYTHON
