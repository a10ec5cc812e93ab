#!/usr/bin/env bash
# One seed, one shape, two noises: torch.randn_like of a permuted view.
# Versions: torch 2.13.0 (CPU).
# Guess: a seed and a shape say what is drawn.
# Seen: randn_like and rand_like fill memory in the order of the tensor's strides, so a permuted view or channels_last_3d gets
# other values than its contiguous copy; a strided slice or an expanded tensor gets the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch


def seeded(draw):
    torch.manual_seed(0)
    return draw()


video = torch.zeros(2, 3, 4, 5, 6)
CASES = {
    "permuted view": (video.permute(0, 2, 3, 4, 1), False),
    "channels_last_3d": (video.to(memory_format=torch.channels_last_3d), False),
    "every second column": (torch.zeros(8, 8)[:, ::2], True),
    "expanded row": (torch.zeros(1, 8).expand(8, 8), True),
}
print(f"torch {torch.__version__}")
for name, (tensor, expected) in CASES.items():
    normal = torch.equal(seeded(lambda: torch.randn_like(tensor)), seeded(lambda: torch.randn(tensor.shape)))
    uniform = torch.equal(seeded(lambda: torch.rand_like(tensor)), seeded(lambda: torch.rand(tensor.shape)))
    print(f"{name}: equal to a draw of its shape: randn {normal}, rand {uniform}")
    assert normal == uniform == expected, f"expected {expected}"
PYTHON
