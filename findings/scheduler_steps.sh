#!/usr/bin/env bash
# Three steps at shift 5, and a step list of one's own, through diffusers' flow schedulers.
# Versions: diffusers 0.42.1, torch 2.13.0 (CPU).
# Guess: equal shift and number of steps give equal levels; timesteps that the user gives are taken as given.
# Seen: two schedules. Euler and LCM step from 1 down to the smallest training level, which is shifted twice: 1, 0.835, 0.024, so the last
# step has nothing to do; UniPC and FlowMap stop a step above 0: 1, 0.909, 0.714. Own timesteps come out as given on Euler and LCM, but their
# levels are shifted, so a sampler that reads sigmas is at 0.845 where the network is told 522; FlowMap shifts both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import diffusers
from diffusers import (
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)


def levels(scheduler):
    timesteps = [round(float(t)) for t in scheduler.timesteps]
    return timesteps, [round(float(sigma), 3) for sigma in scheduler.sigmas[: len(timesteps)]]


euler = ([1000, 835, 24], [1.0, 0.835, 0.024])
own = ([1000, 757, 522], [1.0, 0.94, 0.845])
CASES = (
    (FlowMatchEulerDiscreteScheduler(shift=5.0), {"num_inference_steps": 3}, euler),
    (FlowMatchLCMScheduler(shift=5.0), {"num_inference_steps": 3}, euler),
    (FlowMapEulerDiscreteScheduler(shift=5.0), {"num_inference_steps": 3}, ([1000, 909, 714], [1.0, 0.909, 0.714])),
    (UniPCMultistepScheduler(flow_shift=5.0, use_flow_sigmas=True, prediction_type="flow_prediction"), {"num_inference_steps": 3}, ([999, 909, 714], [1.0, 0.909, 0.715])),
    (FlowMatchEulerDiscreteScheduler(shift=5.0), {"timesteps": [1000, 757, 522]}, own),
    (FlowMatchLCMScheduler(shift=5.0), {"timesteps": [1000, 757, 522]}, own),
    (FlowMapEulerDiscreteScheduler(shift=5.0), {"timesteps": [1000, 757, 522]}, ([1000, 940, 845], [1.0, 0.94, 0.845])),
)
print(f"diffusers {diffusers.__version__}")
for scheduler, how, expected in CASES:
    scheduler.set_timesteps(**how)
    seen = levels(scheduler)
    print(f"{type(scheduler).__name__} {how}: timesteps {seen[0]}, sigmas {seen[1]}")
    assert seen == expected, f"expected {expected}"
PYTHON
