#!/usr/bin/env bash
# HunyuanVideo 1.5: text to video and image to video in one batch.
# Versions: diffusers 0.42.1, torch 2.13.0 (a tiny transformer with random weights, float32).
# Guess: "no image", zeros for image_embeds, is decided for each sample, so that a sample is the same alone and beside another.
# Seen: it is decided for the batch. Beside a sample with an image, one without attends to image tokens made of zeros, and its output is
# another; prompts of other lengths beside it change nothing. Besides, the last block has six parameters that no loss reaches, and
# text-to-video training never reaches the image branch: gradients are None, or zeros, that AdamW decays.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch

torch.manual_seed(0)
model = diffusers.HunyuanVideo15Transformer3DModel(
    in_channels=9,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    num_refiner_layers=1,
    mlp_ratio=2.0,
    patch_size=1,
    patch_size_t=1,
    qk_norm="rms_norm",
    text_embed_dim=32,
    text_embed_2_dim=24,
    image_embed_dim=20,
    rope_axes_dim=(4, 6, 6),
)
LENGTHS = torch.tensor([[1] * 4 + [0] * 4, [1] * 8])
inputs = {
    "hidden_states": torch.randn(2, 9, 2, 4, 4),
    "timestep": torch.full((2,), 500.0),
    "encoder_hidden_states": torch.randn(2, 8, 32),
    "encoder_attention_mask": LENGTHS,
    "encoder_hidden_states_2": torch.randn(2, 6, 24),
    "encoder_attention_mask_2": torch.ones(2, 6, dtype=torch.long),
}
picture = torch.randn(1, 5, 20)
none = torch.zeros_like(picture)


def run(images, rows):
    part = {name: value[rows] for name, value in inputs.items()}
    return model(**part, image_embeds=images, return_dict=False)[0]


def miss(second):
    """How far the first sample, which has no image, is from its output alone, beside a sample with ``second``."""
    with torch.no_grad():
        beside = run(torch.cat([none, second]), slice(0, 2))[:1]
        return (beside - run(none, slice(0, 1))).abs().max().item()


print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
text, image = miss(none), miss(picture)
print(f"a sample without an image, beside a longer prompt: {text:.1e}; beside a sample with an image: {image:.1e}")
assert text < 1e-5 < 1e-3 < image, "expected a difference beside an image alone"
run(none, slice(0, 1)).sum().backward()
lost = [name for name, p in model.named_parameters() if p.grad is None]
still = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.any() and "image_embedder" in name]
print(f"text to video: {len(lost)} parameters without a gradient, all of the last block; {len(still)} of the image branch have zeros")
assert len(lost) == 6 and all(name.startswith("transformer_blocks.1.") for name in lost), f"expected 6, got {lost}"
assert len(still) >= 6, f"expected at least 6, got {still}"
PYTHON
