#!/usr/bin/env bash
# An element-wise function of one element, whose result depends on the element's place.
# Versions: torch 2.13.0 (CPU, x86-64).
# Guess: sigmoid(x)[i] depends on x[i] alone.
# Seen: the last elements that fill no vector register are computed by other code. Of 600 parts of 7 elements, sigmoid, SiLU, GELU by
# tanh, softplus, powers, products of complex numbers and the second moment of the fused AdamW have other last bits than within one
# tensor; exp, tanh, GELU by erf, lerp and rsqrt have the same. rsqrt in bfloat16 is rounded once within a register and twice after it,
# so that a quarter of the last elements are a step of bfloat16 off, up to 0.8 %.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F
from torch.optim.adamw import adamw

torch.set_num_threads(1)
torch.manual_seed(0)
n = 4200
a, b = torch.randn(n), torch.randn(n)


def second_moment(weights, gradients):
    weights, first, second = weights.clone(), torch.zeros_like(weights), torch.full_like(weights, 0.01)
    settings = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.01, "eps": 1e-8}
    adamw([weights], [gradients], [first], [second], [], [torch.tensor(3.0)], fused=True, foreach=False,
          amsgrad=False, maximize=False, **settings)
    return second


def product(x, y):
    return torch.view_as_real(torch.complex(x, y) * torch.complex(x + y, y)).flatten()


CASES = {
    "exp": (lambda x, y: x.exp(), False),
    "tanh": (lambda x, y: x.tanh(), False),
    "GELU by erf": (lambda x, y: F.gelu(x), False),
    "lerp": (lambda x, y: torch.lerp(x, y, 0.3), False),
    "rsqrt": (lambda x, y: x.abs().rsqrt(), False),
    "sigmoid": (lambda x, y: x.sigmoid(), True),
    "SiLU": (lambda x, y: F.silu(x), True),
    "GELU by tanh": (lambda x, y: F.gelu(x, approximate="tanh"), True),
    "softplus": (lambda x, y: F.softplus(x), True),
    "power 0.3": (lambda x, y: x.abs() ** 0.3, True),
    "complex product": (product, True),
    "second moment of fused AdamW": (second_moment, True),
    "rsqrt in bfloat16": (lambda x, y: x.abs().bfloat16().rsqrt().float(), True),
    "SiLU in bfloat16": (lambda x, y: F.silu(x.bfloat16()).float(), False),
}
print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
for name, (function, expected) in CASES.items():
    whole = function(a, b)
    parts = torch.cat([function(x, y) for x, y in zip(a.split(7), b.split(7))])
    other = (whole != parts).float().mean().item()
    far = ((whole - parts).abs() / whole.abs()).max().item()
    print(f"{name}: {other:.1%} of the elements differ, by {far:.1e} at most")
    assert (other > 0) == expected, f"expected {expected}"
PYTHON
