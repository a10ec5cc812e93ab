#!/usr/bin/env bash
# Does the first sample's noise depend on how many samples are drawn with it?
# Versions: torch 2.13.0 (CPU).
# Guess: a generator is a stream: a longer draw begins with the shorter one.
# Seen: only where the shorter draw has 16 n >= 16 elements. Below 16 elements normals are made one by one, from 16 on sixteen at a time,
# and where the number is no multiple of 16 the last sixteen are drawn again over what was there. fp64 is another stream than fp32;
# bf16 is fp32 rounded.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch


def noise(*shape, **how):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), **how)


print(f"torch {torch.__version__}")
for elements, expected in ((8, False), (15, False), (16, True), (24, False), (100, False), (128, True)):
    seen = torch.equal(noise(1, elements)[0], noise(4, elements)[0])
    print(f"a sample of {elements} elements, alone and first of four: equal {seen}")
    assert seen == expected, f"expected {expected}"
bf16 = torch.equal(noise(64, dtype=torch.bfloat16), noise(64).bfloat16())
fp64 = torch.allclose(noise(64, dtype=torch.float64), noise(64).double(), atol=1e-3)
print(f"bf16 is fp32 rounded: {bf16}; fp64 is fp32 with more digits: {fp64}")
assert bf16 and not fp64
PYTHON
