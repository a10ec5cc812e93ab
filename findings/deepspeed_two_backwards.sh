#!/usr/bin/env bash
# Two backwards before one step of a DeepSpeed engine: are their gradients added?
# Versions: deepspeed 0.19.8, torch 2.13.0 (CPU, gloo, one process).
# Guess: gradients add up until `step`, as in torch, under every ZeRO stage.
# Seen: under stages 1 and 2 the first backward's gradient is lost without a word (gradient_accumulation_steps is 1, so each backward
# is taken for the last); stages 0 and 3 add.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check deepspeed==0.19.8 torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import logging
import os
import warnings

os.environ.update(DS_ACCELERATOR="cpu", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else minutes of compilation
torch.distributed.init_process_group("gloo", init_method=f"file://{os.getcwd()}/meeting", rank=0, world_size=1)


def engine(stage, **more):
    """A linear layer of four weights under SGD with rate 1: it moves by exactly its gradient."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 1, bias=False)
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True}
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    return deepspeed.initialize(model=layer, optimizer=optimizer, config=config | more, dist_init_required=False)[0]


def weights(engine, stage):
    weight = engine.module.weight
    return (safe_get_full_fp32_param(weight) if stage else weight).detach().clone()


print(f"deepspeed {deepspeed.__version__}, torch {torch.__version__}")
for stage, expected in ((0, 6.0), (1, 1.0), (2, 1.0), (3, 6.0)):
    trained = engine(stage, gradient_clipping=0.0)
    before = weights(trained, stage)
    for value in (5.0, 1.0):  # gradients of 5 and 1 in each weight
        trained.backward(trained(torch.full((1, 4), value)).sum())
    trained.step()
    moved = round((before - weights(trained, stage)).mean().item(), 3)
    print(f"ZeRO-{stage}: gradients of 5 and then 1 move each weight by {moved}")
    assert moved == expected, f"expected {expected}"
torch.distributed.destroy_process_group()
PYTHON
