#!/usr/bin/env bash
# A query all of whose keys are masked (a prompt without tokens, a padded row): what attention gives for it.
# Versions: torch 2.13.0 (CPU).
# Guess: NaN by each way of torch, since a softmax over nothing is 0 / 0.
# Seen: three answers. scaled_dot_product_attention gives 0 and gradients of 0 for a bool mask and for minus infinity, by both of its
# kernels. A mask of the dtype's least number, as text encoders' code writes it, gives the mean of all values, masked ones included, and
# gradients that differ by kernel: the fused one's is as many times larger as there are keys. nn.MultiheadAttention gives NaN where it
# returns its weights, which is its default, and its bias where it does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

torch.manual_seed(0)
q, k, v = (torch.randn(1, 2, 4, 8) for _ in range(3))
seen = torch.ones(4, 4, dtype=torch.bool)
seen[1] = False
inf, least = (torch.zeros(4, 4).masked_fill(~seen, low) for low in (-torch.inf, torch.finfo(torch.float32).min))
print(f"torch {torch.__version__}")
for name, mask in (("bool", seen), ("minus infinity", inf), ("the least number", least)):
    grads = []
    for backend in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
        query = q.clone().requires_grad_()
        with sdpa_kernel(backend):
            row = F.scaled_dot_product_attention(query, k, v, attn_mask=mask)[0, 0, 1]
        row.sum().backward()
        expected = v[0, 0].mean(0) if mask is least else torch.zeros(8)
        print(f"{name}, {backend.name}: row {row[:2].tolist()}, gradient of the query {query.grad[0, 0, 1].abs().max():.1f}")
        assert torch.allclose(row, expected, atol=1e-6), f"expected {expected}"
        grads.append(query.grad[0, 0, 1])
    times = 4 if mask is least else 1  # as many as there are keys
    assert torch.allclose(grads[1], times * grads[0], atol=1e-5), f"expected {times} times the gradient of MATH"
    assert bool(grads[0].abs().max() > 1e-3) == (mask is least)
layer = torch.nn.MultiheadAttention(16, 2, batch_first=True)
torch.nn.init.constant_(layer.out_proj.bias, 0.5)
x, padding = torch.randn(1, 3, 16), torch.ones(1, 3, dtype=torch.bool)
for weights, name in ((True, "NaN"), (False, "the bias, 0.5")):
    row = layer(x, x, x, key_padding_mask=padding, need_weights=weights)[0][0, 0]
    print(f"MultiheadAttention, need_weights={weights}: {row[:2].tolist()}")
    assert bool(row.isnan().all()) == weights and (weights or torch.allclose(row, torch.full_like(row, 0.5))), f"expected {name}"
PYTHON
