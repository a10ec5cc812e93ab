#!/usr/bin/env bash
# A seeded generator, or one for each video, given to WanPipeline beside a scheduler that adds noise between its steps.
# Versions: diffusers 0.42.1, torch 2.13.0, transformers 5.23.0 (CPU).
# Guess: generator= makes a call repeatable, and a list of generators makes each video independent of the others of its batch; that is
# what its documentation says, and step() of both schedulers takes a generator.
# Seen: the pipeline draws the first noise from it and does not hand it to step(), which draws from torch's global one: two calls with
# one seed differ with FlowMatchLCMScheduler, and with stochastic_sampling of FlowMatchEulerDiscreteScheduler, from the second step on.
# torch.manual_seed before the call repeats it; even then a video with its own generator is another beside a second one. Euler without
# noise repeats in both ways.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 transformers==5.23.0
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler, WanPipeline, WanTransformer3DModel

diffusers.utils.logging.set_verbosity_error()
torch.manual_seed(0)
transformer = WanTransformer3DModel(
    num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8, freq_dim=8, ffn_dim=16, num_layers=1
)
TEXT = torch.randn(1, 6, 8)


def call(scheduler, steps, seeds, reset=None):
    if reset is not None:
        torch.manual_seed(reset)
    parts = dict(tokenizer=None, text_encoder=None, vae=None)
    pipe = WanPipeline(**parts, transformer=transformer, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    text = TEXT.expand(len(seeds), -1, -1)
    size = dict(height=32, width=32, num_frames=5)
    return pipe(
        prompt_embeds=text, num_inference_steps=steps, guidance_scale=1.0, generator=generators, output_type="latent", **size
    ).frames


print(f"diffusers {diffusers.__version__}, torch {torch.__version__}, transformers {transformers.__version__}")
SCHEDULERS = {
    "Euler": FlowMatchEulerDiscreteScheduler,
    "Euler, stochastic_sampling": lambda: FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
    "LCM": FlowMatchLCMScheduler,
}
for name, scheduler in SCHEDULERS.items():
    noisy = name != "Euler"
    for steps in (1, 4):
        again = torch.equal(call(scheduler(), steps, [7]), call(scheduler(), steps, [7]))
        print(f"{name}, {steps} steps: one seed twice gives {'equal videos' if again else 'two videos'}")
        assert again == (not noisy or steps == 1)
    first = call(scheduler(), 4, [7], reset=0)
    assert torch.equal(first, call(scheduler(), 4, [7], reset=0))
    beside = call(scheduler(), 4, [7, 8], reset=0)[:1]
    same = torch.allclose(first, beside, atol=1e-4)
    print(f"{name}, torch seeded, too: repeats; beside another video it is {'the same' if same else 'another'}")
    assert same != noisy
PYTHON
