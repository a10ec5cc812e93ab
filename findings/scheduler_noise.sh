#!/usr/bin/env bash
# Noise that Wan's own scheduler, UniPC for flows, adds to a clean sample at a level that is asked for, before and after set_timesteps.
# Versions: diffusers 0.42.1, torch 2.13.0.
# Guess: at timestep t it is (1 - t / 1000) x + (t / 1000) eps; a timestep between its own is interpolated, or an error.
# Seen: before set_timesteps its levels are those of a variance-preserving diffusion, read as flow levels: at 500 the sample comes times -2.4,
# at 500.5, which is none of its timesteps, times -156. After set_timesteps(10) every timestep that is not in the list gets the last one's
# level, without a word: 900, 500 and 1 are all 0.36. DPM-Solver++ and DEIS do the same; FlowMatchEuler raises an IndexError for those.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch

zero, one = torch.zeros(1, 4), torch.ones(1, 4)


def parts(scheduler, timestep):
    """Factors of the sample and of the noise in add_noise at a timestep."""
    t = torch.tensor([timestep])
    return scheduler.add_noise(one, zero, t)[0, 0].item(), scheduler.add_noise(zero, one, t)[0, 0].item()


print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
for kind in (diffusers.UniPCMultistepScheduler, diffusers.DPMSolverMultistepScheduler, diffusers.DEISMultistepScheduler):
    scheduler = kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    fresh = {t: parts(scheduler, t) for t in (900.0, 500.0, 500.5)}
    print(f"{kind.__name__}, fresh: " + ", ".join(f"{t:g}: {x:.2f} x + {eps:.2f} eps" for t, (x, eps) in fresh.items()))
    assert fresh[500.0][0] < -2 and fresh[500.5][0] < -100, "expected levels far above 1"
    scheduler.set_timesteps(10)
    own = scheduler.timesteps[5].item()
    set_up = {t: parts(scheduler, t) for t in (own, 900, 500, 1)}
    print("  set to 10 steps: " + ", ".join(f"{t:g}: {x:.2f} x + {eps:.2f} eps" for t, (x, eps) in set_up.items()))
    assert abs(set_up[own][1] - own / 1000) < 2e-3, "expected t / 1000 at its own timesteps"
    last = scheduler.timesteps[-1].item() / 1000
    assert all(abs(set_up[t][1] - last) < 2e-3 for t in (900, 500, 1)), f"expected {last} at others"

euler = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
euler.set_timesteps(10)
try:
    euler.scale_noise(zero, torch.tensor([500.0]), one)
    raise SystemExit("expected an error")
except IndexError as error:
    print(f"{type(euler).__name__}: IndexError, {error}")
PYTHON
