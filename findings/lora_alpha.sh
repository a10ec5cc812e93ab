#!/usr/bin/env bash
# One LoRA, alpha 2 and rank 4, in three spellings that files of Wan have, loaded by diffusers.
# Versions: diffusers 0.42.1, peft 0.21.2, torch 2.13.0, transformers 5.23.0 (a tiny transformer with random weights).
# Guess: each gives alpha / rank = 0.5 of B A, or an error.
# Seen: under `diffusion_model.` the key `alpha` is used, with lora_down and with lora_A. Under diffusers' own names (`transformer.`) it is
# dropped without a word: the adapter is twice as strong. A key of LyCORIS' Kronecker form under `lycoris_` loads nothing and says so in one
# line of log, and one under `diffusion_model.` raises a KeyError that names a key the file does not have. A change of a norm
# (`norm3.diff`) is left out in silence, one of a bias (`diff_b`) is applied.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 peft==0.21.2 torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import logging

import diffusers
import peft
import torch
from diffusers.loaders import WanLoraLoaderMixin

logging.disable(logging.WARNING)
torch.manual_seed(0)
A, B = torch.randn(4, 24), torch.randn(24, 4)
ALPHA = torch.tensor(2.0)
QUERY = "blocks.0.attn1.to_q.weight"


def added(state):
    """What the adapter adds to each weight of a network, by name."""
    torch.manual_seed(1)
    network = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
        freq_dim=16, ffn_dim=32, num_layers=1, rope_max_seq_len=32,
    )
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    WanLoraLoaderMixin.load_lora_into_transformer(
        WanLoraLoaderMixin.lora_state_dict(dict(state)), transformer=network, adapter_name="one"
    )
    if getattr(network, "peft_config", None):
        network.fuse_lora()
        network.unload_lora()
    after = network.state_dict()
    return {name: after[name] - before[name] for name in before if not torch.equal(after[name], before[name])}


native, ours = "diffusion_model.blocks.0.self_attn.q", "transformer.blocks.0.attn1.to_q"
down_up = {f"{native}.lora_down.weight": A, f"{native}.lora_up.weight": B, f"{native}.alpha": ALPHA}
a_b = {f"{native}.lora_A.weight": A, f"{native}.lora_B.weight": B, f"{native}.alpha": ALPHA}
own = {f"{ours}.lora_A.weight": A, f"{ours}.lora_B.weight": B, f"{ours}.alpha": ALPHA}
print(f"diffusers {diffusers.__version__}, peft {peft.__version__}, torch {torch.__version__}")
for name, state, expected in (("diffusion_model, down and up", down_up, 0.5), ("diffusion_model, A and B", a_b, 0.5), ("transformer", own, 1.0)):
    delta = added(state)
    scale = (delta[QUERY].flatten() @ (B @ A).flatten() / (B @ A).square().sum()).item()
    print(f"{name}: {scale:.3f} of B A")
    assert list(delta) == [QUERY] and abs(scale - expected) < 1e-4, f"expected {expected}"
blocks = {"lokr_w1": torch.randn(4, 4), "lokr_w2": torch.randn(6, 6), "alpha": torch.tensor(1.0)}
changed = added({f"lycoris_blocks_0_self_attn_q.{key}": value for key, value in blocks.items()})
print(f"lycoris_: {len(changed)} weights changed")
assert not changed, "expected none"
try:
    added({f"{native}.{key}": value for key, value in blocks.items()})
    raise SystemExit("expected an error")
except KeyError as error:
    print(f"the same under diffusion_model.: KeyError {error}")
    assert "lora_down" in str(error)
extra = {"diffusion_model.blocks.0.norm3.diff": torch.ones(24), f"{native}.diff_b": torch.ones(24)}
changed = sorted(added({**down_up, **extra}))
print(f"diff of a norm, diff_b of a bias: changed {changed}")
assert changed == ["blocks.0.attn1.to_q.bias", QUERY], "expected the bias and the query alone"
PYTHON
