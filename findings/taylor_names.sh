#!/usr/bin/env bash
# TaylorSeerCacheConfig() as it comes, given to enable_cache of video transformers.
# Versions: diffusers 0.42.1, torch 2.13.0, transformers 5.23.0 (CPU).
# Guess: it extrapolates attention in every transformer that has enable_cache, as its documentation says ("all attention-like modules are
# hooked by default"), or refuses one in which it finds none.
# Seen: the default pattern must match a module's whole name and ends in "attn". Layers called attn1 and attn2 are passed over: none is
# hooked in Wan (also VACE, Animate), SkyReels-V2, CogVideoX, LTX-Video and Mochi; is_cache_enabled is True, each block is computed, and
# the video is the same bit for bit. In LTX-2 the layers between picture and sound are hooked and no attention within either.
# HunyuanVideo's blocks are all hooked. With cache_identifiers that match Wan's names, the video changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 transformers==5.23.0
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import re
from collections import Counter

import diffusers
import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler, TaylorSeerCacheConfig, WanPipeline, WanTransformer3DModel

diffusers.utils.logging.set_verbosity_error()
print(f"diffusers {diffusers.__version__}, torch {torch.__version__}, transformers {transformers.__version__}")


def hooked(transformer):
    hooks = {name: getattr(module, "_diffusers_hook", None) for name, module in transformer.named_modules()}
    return [name for name, hook in hooks.items() if hook and hook.get_hook("taylorseer_cache")]


EXPECTED = {
    "WanTransformer3DModel": (0, 80),
    "WanVACETransformer3DModel": (0, 96),
    "WanAnimateTransformer3DModel": (0, 80),
    "SkyReelsV2Transformer3DModel": (0, 64),
    "CogVideoXTransformer3DModel": (0, 30),
    "LTXVideoTransformer3DModel": (0, 56),
    "MochiTransformer3DModel": (0, 48),
    "LTX2VideoTransformer3DModel": (96, 288),
    "HunyuanVideoTransformer3DModel": (60, 60),
}
for name, expected in EXPECTED.items():
    with torch.device("meta"):
        transformer = getattr(diffusers, name)()
    transformer.enable_cache(TaylorSeerCacheConfig())
    assert transformer.is_cache_enabled
    within = [module for module, _ in transformer.named_modules() if re.search(r"blocks\.\d+\.[a-z_]*attn\d?$", module)]
    within = [module for module in within if "refiner" not in module]
    found = hooked(transformer)
    kinds = Counter(re.sub(r"\.\d+\.", ".*.", module) for module in found)
    print(f"{name}: {len(found)} of {len(within)} attention layers hooked {dict(kinds) or ''}")
    assert (len(found), len(within)) == expected


def video(config=None):
    torch.manual_seed(0)
    sizes = dict(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8, freq_dim=8)
    transformer = WanTransformer3DModel(**sizes, ffn_dim=16, num_layers=2)
    if config is not None:
        transformer.enable_cache(config)
    parts = dict(tokenizer=None, text_encoder=None, vae=None, scheduler=FlowMatchEulerDiscreteScheduler())
    pipe = WanPipeline(**parts, transformer=transformer)
    pipe.set_progress_bar_config(disable=True)
    text, generator = torch.randn(1, 6, 8), torch.Generator().manual_seed(7)
    size = dict(height=32, width=32, num_frames=5, num_inference_steps=28, guidance_scale=1.0)
    return pipe(prompt_embeds=text, generator=generator, output_type="latent", **size).frames


plain = video()
by_default = (video(TaylorSeerCacheConfig()) - plain).abs().max().item()
by_name = (video(TaylorSeerCacheConfig(cache_identifiers=[r"blocks\.\d+\.attn\d"])) - plain).abs().max().item()
print(f"Wan, 28 steps: differs by {by_default:.0e} with the default and by {by_name:.0e} with its layers named")
assert by_default == 0 and by_name > 1e-4
PYTHON
