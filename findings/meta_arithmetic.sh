#!/usr/bin/env bash
# Modules that torch imports for arithmetic on tensors of the meta device, which have shapes and no values.
# Versions: torch 2.13.0.
# Guess: shapes are computed in C++, or by code that `import torch` has loaded: a sum of two meta tensors imports nothing.
# Seen: a product of two matrices imports 500 modules (torch's tracing, and sympy), and a sum of two tensors, a ReLU or a linear layer
# 800, in a process of 1,100: with them the compiler (torch._dynamo, torch._inductor) and torch.distributed.fsdp, 1.3 s of CPU time. A
# view, a cast, a sum over elements and new parameters import nothing: an outline of names and shapes is cheap, and one forward that asks
# for a shape is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
cat > ask.py <<'PYTHON'
import sys
import time

import torch
from torch import nn

DO = {
    "parameters of a layer": lambda: nn.Linear(4, 4, device="meta"),
    "a view": lambda: m.reshape(1, -1),
    "a cast": lambda: m.to(torch.bfloat16),
    "a sum over elements": lambda: m.sum(),
    "a product of matrices": lambda: m @ m.mT,
    "a sum of two": lambda: m + m,
    "a ReLU": lambda: torch.relu(m),
    "a linear layer": lambda: layer(m),
}
what = sys.argv[1]
m = torch.empty(1, 3, 4, 4, device="meta")
layer = nn.Linear(4, 4, device="meta")
before, began = set(sys.modules), time.process_time()
DO[what]()
more = set(sys.modules) - before
heavy = [name for name in ("sympy", "torch._dynamo", "torch._inductor", "torch.distributed.fsdp") if name in more]
print(f"{what:24} {len(more):4} modules in {time.process_time() - began:.2f} s on top of {len(before)}  {' '.join(heavy)}")
few, compiler = what in ("parameters of a layer", "a view", "a cast", "a sum over elements"), "torch._dynamo" in more
assert len(more) < 10 if few else len(more) > 300, "expected other modules"
assert compiler == (what in ("a sum of two", "a ReLU", "a linear layer")), "expected the compiler elsewhere"
PYTHON
"$folder/venv/bin/python" -c 'import torch; print(f"torch {torch.__version__}")'
for what in "parameters of a layer" "a view" "a cast" "a sum over elements" "a product of matrices" "a sum of two" "a ReLU" "a linear layer"
do
    "$folder/venv/bin/python" ask.py "$what"
done
