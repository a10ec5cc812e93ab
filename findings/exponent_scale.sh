#!/usr/bin/env bash
# The scale format of MX quantisation, which has exponents alone, has neither a zero nor a sign, and a cast says nothing.
# Versions: torch 2.13.0 (CPU).
# Guess: a cast to float8_e8m0fnu of what it cannot hold, 0 or a negative number, is NaN, as that of infinity is.
# Seen: 0 becomes 2^-127 (so do torch.zeros and fill_(0)), -3 becomes 4. A cast rounds to the nearest power of two by value, a tie up:
# half of all scales are smaller than what they were cast from, by up to a third, and 1.49999 is 1 from float32 but 2 by way of bfloat16.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch

E8M0 = torch.float8_e8m0fnu


def cast(value, by=torch.float32):
    return torch.tensor(value).to(by).to(E8M0).float().item()


print(f"torch {torch.__version__}")
SEEN = {0.0: 2.0**-127, -1.0: 1.0, -3.0: 4.0, 1.4: 1.0, 1.5: 2.0, 2.9: 2.0, 3.0: 4.0, 6.0: 8.0}
for value, wanted in SEEN.items():
    print(f"{value:g} becomes {cast(value):g}")
    assert cast(value) == wanted
nan = cast(float("inf"))
print(f"infinity becomes {nan}")
assert nan != nan
assert torch.zeros(1, dtype=E8M0).float().item() == torch.ones(1, dtype=E8M0).fill_(0).float().item() == 2.0**-127
by_way = cast(1.49999), cast(1.49999, torch.bfloat16)
print("1.49999 becomes {:g}, by way of bfloat16 {:g}".format(*by_way))
assert by_way == (1.0, 2.0)
torch.manual_seed(0)
values = torch.rand(100_000) * 8 + 1e-3
ratio = values.to(E8M0).float() / values
print(f"of scales {(ratio < 1).float().mean():.0%} became smaller; ratios from {ratio.min():.3f} to {ratio.max():.3f}")
assert 0.66 < ratio.min() < 0.67 and 1.33 < ratio.max() < 1.34 and 0.4 < (ratio < 1).float().mean() < 0.6
PYTHON
