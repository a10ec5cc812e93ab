#!/usr/bin/env bash
# A weight that starts at zero, as LoRA's B and zero-initialised projections do, under Adafactor and AdamW with one learning rate.
# Versions: torch 2.13.0.
# Guess: a hundred steps along an unchanging gradient take both about 100 lr far.
# Seen: Adafactor's steps are relative to the root mean square of the weight, with 0.001 as its least: from zero a hundred steps of
# lr 0.01 go 0.001 far where AdamW goes 1.0, a thousandth; from ones they go 0.63. There is no option that turns that off (eps=(None, 1)
# takes the least to 1, and with it the whole way).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch


def way(kind, start, **settings):
    """How far a hundred steps of lr 0.01 go from ``start`` along a gradient of ones."""
    weight = torch.nn.Parameter(torch.full((16, 16), start))
    optimizer = kind([weight], lr=0.01, weight_decay=0.0, **settings)
    for _ in range(100):
        weight.grad = torch.ones(16, 16)
        optimizer.step()
    return (start - weight).mean().item()


print(f"torch {torch.__version__}")
Adafactor, AdamW = torch.optim.Adafactor, torch.optim.AdamW
for name, seen, expected in (
    ("AdamW from 0", way(AdamW, 0.0), 1.0),
    ("Adafactor from 0", way(Adafactor, 0.0), 0.001),
    ("Adafactor from 1", way(Adafactor, 1.0), 0.634),
    ("Adafactor from 0, eps (None, 1)", way(Adafactor, 0.0, eps=(None, 1.0)), 1.0),
):
    print(f"{name}: {seen:.4f}")
    assert abs(seen / expected - 1) < 0.1, f"expected {expected}"
PYTHON
