#!/usr/bin/env bash
# An adapter of peft, merged, saved and mixed while DeepSpeed's ZeRO-3 keeps its weights in pieces.
# Versions: deepspeed 0.19.8, peft 0.21.2, torch 2.13.0 (CPU, gloo, one process), transformers 5.23.0.
# Guess: merging weights that are not there is an error, and so is saving them.
# Seen: a weight in pieces is a tensor without elements, and a product of two of them is a zero: merge_adapter adds that to nothing and marks each
# layer as merged, so that the network computes as if it had no adapter, and merge_and_unload returns the base. save_pretrained writes
# tensors of no elements, add_weighted_adapter makes an adapter of them. None of the four raises. Within GatheredParameters merging and
# saving are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check deepspeed==0.19.8 peft==0.21.2 torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import logging
import os
import tempfile
import warnings

os.environ.update(DS_ACCELERATOR="cpu", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
import deepspeed
import peft
import torch
from safetensors.torch import load_file

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else minutes of compilation
torch.distributed.init_process_group("gloo", init_method=f"file://{os.getcwd()}/meeting", rank=0, world_size=1)
ZERO_3 = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_clipping": 0.0,
    "zero_allow_untested_optimizer": True,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}
LORA = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["0"], init_lora_weights=False)
x = torch.ones(1, 8)


def adapted():
    """A network with an adapter, the same each time."""
    torch.manual_seed(0)
    return peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 4)), LORA)


def in_pieces():
    """The same network under ZeRO-3."""
    network = adapted()
    optimizer = torch.optim.SGD([weight for weight in network.parameters() if weight.requires_grad], lr=0.1)
    deepspeed.initialize(model=network, optimizer=optimizer, config=ZERO_3, dist_init_required=False)
    return network


def gathered(network):
    return deepspeed.zero.GatheredParameters(list(network.parameters()))


@torch.no_grad()
def output(network):
    return round(network(x).sum().item(), 3)


def saved(network):
    """Numbers of elements of the tensors in the file of the adapter."""
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        return [tensor.numel() for tensor in load_file(f"{folder}/adapter_model.safetensors").values()]


def merged():
    network = in_pieces()
    network.merge_adapter()
    assert network.base_model.model[0].merged, "expected a layer that is marked as merged"
    return network


def merged_whole():
    network = in_pieces()
    with gathered(network):
        network.merge_adapter()
    return network


def saved_whole():
    network = in_pieces()
    with gathered(network):
        return saved(network)


def mixed():
    """Numbers of elements of A and B of a mixture of two adapters."""
    network = adapted()
    network.add_adapter("two", LORA)
    optimizer = torch.optim.SGD([weight for weight in network.parameters() if weight.requires_grad], lr=0.1)
    deepspeed.initialize(model=network, optimizer=optimizer, config=ZERO_3, dist_init_required=False)
    network.add_weighted_adapter(["default", "two"], [0.5, 0.5], "mix", combination_type="linear")
    layer = network.base_model.model[0]
    return [layer.lora_A["mix"].weight.numel(), layer.lora_B["mix"].weight.numel()]


print(f"deepspeed {deepspeed.__version__}, peft {peft.__version__}, torch {torch.__version__}")
plain = adapted()
with plain.disable_adapter():
    base = output(plain)
right = output(plain)
assert abs(right - base) > 0.1
print(f"the base {base}, with its adapter {right}")
for name, seen, expected in (
    ("under ZeRO-3, with its adapter", output(in_pieces()), right),
    ("merge_adapter", output(merged()), base),
    ("merge_and_unload", output(in_pieces().merge_and_unload()), base),
    ("merge_adapter within GatheredParameters", output(merged_whole()), right),
    ("elements that save_pretrained writes", saved(in_pieces()), [0, 0]),
    ("the same within GatheredParameters", sorted(saved_whole()), [8, 16]),
    ("elements of a mixture of two adapters", mixed(), [0, 0]),
):
    print(f"{name}: {seen}")
    assert seen == expected, f"expected {expected}"
torch.distributed.destroy_process_group()
PYTHON
