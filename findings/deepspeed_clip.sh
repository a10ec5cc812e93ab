#!/usr/bin/env bash
# The gradient clip of a DeepSpeed configuration that names none.
# Versions: deepspeed 0.19.8, torch 2.13.0 (CPU, gloo, one process).
# Guess: no `gradient_clipping` in the configuration means no clipping.
# Seen: gradients of norm 10 are clipped to 1.0 under every ZeRO stage, without a line in the log; 0.0 is off. The norm that the engine
# reports afterwards is the unclipped one under stages 1 to 3, and none under stage 0.
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
for stage in (0, 1, 2, 3):
    for clip, expected in ((None, 1.0), (0.0, 10.0), (3.0, 3.0)):
        trained = engine(stage, **({} if clip is None else {"gradient_clipping": clip}))
        before = weights(trained, stage)
        trained.backward(trained(torch.full((1, 4), 5.0)).sum())  # a gradient of norm 10
        trained.step()
        moved = round((weights(trained, stage) - before).norm().item(), 3)
        norm = trained.get_global_grad_norm()
        print(f"ZeRO-{stage}, gradient_clipping {clip}: a gradient of norm 10 moves the weights by {moved}, norm reported {norm and round(float(norm), 3)}")
        assert moved == expected, f"expected {expected}"
torch.distributed.destroy_process_group()
PYTHON
