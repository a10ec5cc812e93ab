#!/usr/bin/env bash
# The gradient of one bf16 row that a batch uses 5,000 times: the true one is 5,000.
# Versions: torch 2.13.0 (CPU).
# Guess: as a product or a broadcast sum it is 5,000, rounded once to bf16: 4,992.
# Seen: by embedding and by indexing it is 256, where 256 + 1 rounds to 256; a product, index_select, expand, repeat_interleave and a
# broadcast sum give 4,992. A parameter used in 5,000 places of one graph stops at 256, too: autograd adds in its dtype.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn import functional as F

TIMES = 5_000
ROWS = torch.zeros(TIMES, dtype=torch.long)
SEEN = {
    "product": (lambda w: w * torch.ones(TIMES, 1, dtype=w.dtype), 4992),
    "broadcast sum": (lambda w: w + torch.zeros(TIMES, 1, dtype=w.dtype), 4992),
    "expand": (lambda w: w.expand(TIMES, 1), 4992),
    "repeat_interleave": (lambda w: w.repeat_interleave(TIMES, 0), 4992),
    "embedding": (lambda w: F.embedding(ROWS, w), 256),
    "w[rows]": (lambda w: w[ROWS], 256),
    "index_select": (lambda w: w.index_select(0, ROWS), 4992),
    "uses, one by one": (lambda w: torch.stack([w * 1 for _ in range(TIMES)]), 256),
}
print(f"torch {torch.__version__}")
for name, (use, expected) in SEEN.items():
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        w = torch.ones(1, 1, dtype=dtype, requires_grad=True)
        use(w).sum().backward()
        grads.append(w.grad.item())
    print(f"{name}: gradient {grads[0]:.0f} in float32, {grads[1]:.0f} in bfloat16")
    assert grads == [TIMES, expected], f"expected {TIMES}, {expected}"
PYTHON
