#!/usr/bin/env bash
# One video sampled alone and as the first of a batch, with a cache of diffusers on its transformer.
# Versions: diffusers 0.42.1, torch 2.13.0, transformers 5.23.0 (CPU).
# Guess: a cache decides for each video, or by the step alone, so that a video does not depend on the others of its batch.
# Seen: FirstBlockCache and SeaCache decide by the mean change over the whole batch. At some thresholds another video in the batch moves
# the steps at which blocks are skipped, and the first video by as much as the cache itself does. Beside MagCache, pyramid attention
# broadcast and TaylorSeer, which go by the step, it is the same to 1e-5.
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
from diffusers import (
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.hooks import SeaCacheConfig

diffusers.utils.logging.set_verbosity_error()
print(f"diffusers {diffusers.__version__}, torch {torch.__version__}, transformers {transformers.__version__}")
TEXT = torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(7))
NOISE = torch.stack([torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(100 + i)) for i in range(4)])


def videos(count, config=None):
    torch.manual_seed(0)
    sizes = dict(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=16, freq_dim=32)
    transformer = WanTransformer3DModel(**sizes, ffn_dim=64, num_layers=4).eval()
    calls = []
    transformer.blocks[1].ffn.register_forward_hook(lambda *_: calls.append(1))
    if config is not None:
        transformer.enable_cache(config)
    parts = dict(tokenizer=None, text_encoder=None, vae=None, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    pipe = WanPipeline(**parts, transformer=transformer)
    pipe.set_progress_bar_config(disable=True)
    size = dict(height=64, width=64, num_frames=9, num_inference_steps=28, guidance_scale=1.0)
    latents = NOISE[:count].clone()
    return pipe(prompt_embeds=TEXT[:count], latents=latents, output_type="latent", **size).frames, len(calls)


def worst(configs):
    """The largest change of the first video by the others, with the change by the cache and the counts of blocks."""
    plain, rows = videos(1)[0], []
    for config in configs:
        (alone, some), (beside, others) = videos(1, config), videos(4, config)
        rows.append(((beside[:1] - alone).abs().max().item(), (alone - plain).abs().max().item(), some, others))
    return max(rows)


ranges = dict(spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500)
CACHES = {
    "FirstBlockCache": [FirstBlockCacheConfig(threshold=0.02 * n) for n in range(1, 11)],
    "SeaCache": [SeaCacheConfig(threshold=0.05 * n) for n in range(1, 11)],
    "MagCache": [MagCacheConfig(mag_ratios=torch.ones(28), num_inference_steps=28)],
    "PyramidAttentionBroadcast": [PyramidAttentionBroadcastConfig(**ranges)],
    "TaylorSeer, its layers named": [TaylorSeerCacheConfig(cache_identifiers=[r"blocks\.\d+\.attn\d"])],
}
for name, configs in CACHES.items():
    moved, by_cache, alone, beside = worst(configs)
    print(f"{name}: {alone} blocks of 28 alone, {beside} beside three others; moved by {moved:.0e} (by the cache {by_cache:.0e})")
    assert moved > 1e-2 if name in ("FirstBlockCache", "SeaCache") else moved < 1e-5
PYTHON
