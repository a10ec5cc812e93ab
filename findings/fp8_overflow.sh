#!/usr/bin/env bash
# Numbers that are too large for eight bits, cast to torch's float8 formats on a CPU.
# Versions: torch 2.13.0 (CPU).
# Guess: beyond its range a format without infinity (e4m3fn) gives NaN, and one with infinity (e5m2) gives infinity.
# Seen: e4m3fn saturates at 448, for infinity itself, too, so that weights that had overflowed come back finite, and no later look for
# infinities finds them. e5m2 is as guessed: it rounds to 57,344 up to 61,440, and from there to infinity. e4m3fnuz gives NaN for 448
# already, and the exponents-only e8m0fnu drops the sign.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import math

import torch

VALUES = (448.0, 500.0, 60_000.0, 61_440.0, math.inf, -math.inf, math.nan, -3.0)
SEEN = {
    torch.float8_e4m3fn: (448.0, 448.0, 448.0, 448.0, 448.0, -448.0, math.nan, -3.0),
    torch.float8_e5m2: (448.0, 512.0, 57_344.0, math.inf, math.inf, -math.inf, math.nan, -3.0),
    torch.float8_e4m3fnuz: (math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, -3.0),
    torch.float8_e8m0fnu: (512.0, 512.0, 65_536.0, 65_536.0, math.nan, math.nan, math.nan, 4.0),
}
print(f"torch {torch.__version__}")
for dtype, expected in SEEN.items():
    for source in (torch.float32, torch.bfloat16, torch.float16):
        for count in (1, 64):  # both ways through the kernel, by element and by vector
            cast = torch.tensor(VALUES, dtype=source).repeat(count).to(dtype).float()[: len(VALUES)].tolist()
            same = all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(cast, expected))
            assert same, f"{dtype} from {source}: {cast}, expected {expected}"
    print(f"{dtype}: {VALUES} -> {cast}")
PYTHON
