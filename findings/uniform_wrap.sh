#!/usr/bin/env bash
# Uniform draws in bfloat16 and float16, as noise levels are drawn in the dtype of the latents, beside those in float32 of one seed.
# Versions: torch 2.13.0, numpy 2.4.6 (CPU).
# Guess: they are the draws of float32 rounded; the largest become 1, or the largest number below it.
# Seen: they are, but those that would round to 1 become 0: in bfloat16 one draw of 512, in float16 one of 4,096. A sample that was to
# be all noise is clean. `uniform_(0, 1000)` does the same: such a timestep is 0 in place of 1000.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch

print(f"torch {torch.__version__}")
COUNT = 1 << 22


def drawn(dtype, low, high):
    return torch.empty(COUNT, dtype=dtype).uniform_(low, high, generator=torch.Generator().manual_seed(0))


for dtype, one_in in ((torch.bfloat16, 512), (torch.float16, 4096)):
    for high in (1.0, 1000.0):
        exact, draws = drawn(torch.float32, 0.0, high), drawn(dtype, 0.0, high)
        wrong = draws != exact.to(dtype)
        share = wrong.double().mean().item()
        print(f"{dtype}, [0, {high:g}): one draw of {1 / share:.0f} is 0, in place of {exact[wrong].min():.5g} or more")
        assert (draws[wrong] == 0).all() and exact[wrong].min() > 0.997 * high
        assert abs(share * one_in - 1) < 0.1
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(torch.rand(COUNT, dtype=dtype, generator=generator), drawn(dtype, 0.0, 1.0))
PYTHON
