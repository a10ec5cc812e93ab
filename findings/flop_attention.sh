#!/usr/bin/env bash
# FLOPs and saved bytes of attention, counted by torch's own tools on a CPU, on fake tensors and on the meta device.
# Versions: torch 2.13.0, numpy 2.4.6 (CPU).
# Guess: `FlopCounterMode` counts attention wherever it runs, and tensors without data keep what tensors with data do.
# Seen: on a CPU, and under FakeTensorMode with its tensors there, attention has no FLOPs at all, since the counter does not know that
# kernel: at the 32,760 tokens of Wan's 81 frames at 480p that is more than half of a transformer's. On the meta device all are
# counted, but there attention takes the path of plain matrix products, which saves the scores and tokens^2 bytes with them: at 1,024
# tokens nine times as many, at 4,096 thirty-three. So neither alone tells what a GPU does, and the two differ by the thing measured.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
from contextlib import nullcontext

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

print(f"torch {torch.__version__}")
HEADS, WIDTH = 2, 32


def counted(tokens, device, mode):
    """FLOPs of the forward, FLOPs of forward and backward, and the bytes of storages that autograd keeps."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with mode():
        q, k, v = (torch.zeros(1, HEADS, tokens, WIDTH, device=device, requires_grad=True) for _ in range(3))
        with FlopCounterMode(display=False) as flops, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            out = scaled_dot_product_attention(q, k, v)
            forward = flops.get_total_flops()
            out.sum().backward()
        return forward, flops.get_total_flops(), sum(storage.nbytes() for storage in kept.values())


for tokens, times in ((1024, 9), (4096, 33)):
    formula = 4 * HEADS * WIDTH * tokens**2
    real, fake, meta = (
        counted(tokens, *where) for where in (("cpu", nullcontext), ("cpu", FakeTensorMode), ("meta", nullcontext))
    )
    print(f"{tokens} tokens, formula {formula:,}: (forward, with backward, saved bytes)")
    print(f"  cpu {real}, fake {fake}, meta {meta}: {meta[2] / real[2]:.1f} times the bytes")
    assert real[:2] == fake[:2] == (0, 0) and real[2] == fake[2]
    assert meta[0] == formula and meta[1] == 3 * formula
    assert abs(meta[2] / real[2] - times) < 1
PYTHON
