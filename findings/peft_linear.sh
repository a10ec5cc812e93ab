#!/usr/bin/env bash
# Two adapters mixed half and half by peft's add_weighted_adapter, against the mean of what each adds to the weight.
# Versions: peft 0.21.2, torch 2.13.0, transformers 5.23.0.
# Guess: "linear" is linear in what adapters add: the mean of both, and of equal ones that one.
# Seen: it mixes the two factors, A and B, each by the square root of the weights, so that B1 A2 and B2 A1 come in: for unrelated adapters the
# error is as large as the mean itself, whose norm grows by 1.4. "cat" is exact, at the sum of the ranks. Diffusers' set_adapters adds up
# the adapters themselves, and is another mixture under the same weights.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check peft==0.21.2 torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import peft
import torch

torch.manual_seed(0)
config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights=False)
network = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False)), config, adapter_name="one")
network.add_adapter("two", config)
layer = network.base_model.model[0]
mean = 0.5 * layer.get_delta_weight("one") + 0.5 * layer.get_delta_weight("two")


def mixed(kind, names=("one", "two")):
    """(error relative to the mean, norm relative to the mean, rank) of a mixture."""
    name = f"{kind}_{names[1]}"
    network.add_weighted_adapter(list(names), [0.5, 0.5], name, combination_type=kind)
    wanted = mean if names[1] == "two" else layer.get_delta_weight("one")
    delta = layer.get_delta_weight(name)
    return ((delta - wanted).norm() / wanted.norm()).item(), (delta.norm() / wanted.norm()).item(), layer.r[name]


print(f"peft {peft.__version__}, torch {torch.__version__}")
linear, cat = mixed("linear"), mixed("cat")
print("linear: error {:.2f} of the mean, norm {:.2f} of it, rank {}".format(*linear))
print("cat: error {:.1e} of the mean, norm {:.2f} of it, rank {}".format(*cat))
assert 0.8 < linear[0] < 1.2 and 1.2 < linear[1] < 1.6 and linear[2] == 4, "expected an error as large as the mean"
assert cat[0] < 1e-5 and cat[2] == 8, "expected cat to be exact"

cross = 0.5 * (layer.lora_B["one"].weight + layer.lora_B["two"].weight) @ (layer.lora_A["one"].weight + layer.lora_A["two"].weight)
miss = (layer.get_delta_weight("linear_two") - 2.0 * cross).norm() / cross.norm()
print(f"linear against (alpha / r) 0.5 (B1 + B2)(A1 + A2): {miss:.1e}")
assert miss < 1e-5, "expected the product of the mixed factors"
PYTHON
