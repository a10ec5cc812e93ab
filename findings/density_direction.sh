#!/usr/bin/env bash
# Which noise levels diffusers' density for training of flow models prefers.
# Versions: diffusers 0.42.1, torch 2.13.0.
# Guess: those of the paper that it names (Stable Diffusion 3): t is 1 at noise, so a logit-normal density with a mean above 0 prefers noise.
# Seen: the opposite. The training scripts take the draw as a place in the scheduler's timesteps, which fall: a mean of 1 gives a mean level
# of 0.30, a mean of -1 0.70. The scripts' default of 0 hides it. The scheduler's shift comes on top: with shift 3 a mean of 1 gives 0.52.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 numpy setuptools
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("diffusers", "torch")))


def levels(shift=1.0, **density):
    """Levels of a million draws, as the training scripts take them from a scheduler."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    generator = torch.Generator().manual_seed(0)
    u = compute_density_for_timestep_sampling(batch_size=1_000_000, generator=generator, **density)
    places = (u * scheduler.config.num_train_timesteps).long()
    return u, scheduler.timesteps[places] / scheduler.config.num_train_timesteps


for mean in (-1.0, 0.0, 1.0):
    u, sigma = levels(weighting_scheme="logit_normal", logit_mean=mean, logit_std=1.0)
    print(f"logit_normal, mean {mean:4}: the draws' mean is {u.mean():.2f}, that of the levels {sigma.mean():.2f}")
u, noisy = levels(weighting_scheme="logit_normal", logit_mean=1.0, logit_std=1.0)
_, shifted = levels(shift=3.0, weighting_scheme="logit_normal", logit_mean=1.0, logit_std=1.0)
print(f"the same with shift 3, mean 1: levels {shifted.mean():.2f}")
assert u.mean() > 0.65, "expected draws above the middle"
assert noisy.mean() < 0.35, "expected levels below the middle"
assert abs(float(u.mean() + noisy.mean()) - 1) < 0.01, "expected levels that mirror the draws"
assert abs(float(shifted.mean()) - 0.52) < 0.03, "expected the shift on top"
PYTHON
