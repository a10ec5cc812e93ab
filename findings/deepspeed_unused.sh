#!/usr/bin/env bash
# A parameter that one step's loss does not reach, or that is frozen after `initialize`, under DeepSpeed and AdamW.
# Versions: deepspeed 0.19.8, torch 2.13.0 (CPU, gloo, one process).
# Guess: as in torch, a parameter without a gradient stays where it is, under stage 0 at least; a frozen one stays under every stage.
# Seen: it moves under every stage: its weight decays before it was ever reached, and its momentum goes on (ZeRO-3 uses the step's old gradient
# once more, and moves further). Frozen after `initialize` it stays under stage 0, and moves as before under ZeRO 1 and 2. Branches that some
# batches leave out, and experts that take turns, drift; an engine of their own, or no decay, is the way round.
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
CONFIG = {"train_micro_batch_size_per_gpu": 1, "zero_allow_untested_optimizer": True, "gradient_clipping": 0.0}
SEEN = {  # stage: the branch never reached, the branch reached in the first of two steps, the same one frozen in between
    "torch": (1.0, 0.89, 0.89),
    0: (0.99, 0.8141, 0.89),
    1: (0.99, 0.8141, 0.8141),
    2: (0.99, 0.8141, 0.8141),
    3: (0.99, 0.7811, None),
}


class Branches(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (torch.nn.Linear(4, 4, bias=False) for _ in range(2))
        for branch in (self.first, self.second):
            torch.nn.init.ones_(branch.weight)

    def forward(self, x, branch):
        return getattr(self, branch)(x).sum()


def weight(branch, stage):
    shard = branch.weight
    return round((safe_get_full_fp32_param(shard) if stage not in ("torch", 0) else shard.detach())[0, 0].item(), 4)


def steps(stage, freeze):
    """Weights of the second branch after a step of the first, and of the first after one more step, of the second."""
    model, x = Branches(), torch.ones(1, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    if stage == "torch":
        run = model
    else:
        config = CONFIG | {"zero_optimization": {"stage": stage}}
        run = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)[0]

    def step(branch):
        loss = run(x, branch)
        if stage == "torch":
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        else:
            run.backward(loss)
            run.step()

    step("first")
    untouched = weight(model.second, stage)
    model.first.weight.requires_grad_(not freeze)
    step("second")
    return untouched, weight(model.first, stage)


print(f"deepspeed {deepspeed.__version__}, torch {torch.__version__}")
for stage, (never, idle, frozen) in SEEN.items():
    untouched, left = steps(stage, freeze=False)
    kept = None if frozen is None else steps(stage, freeze=True)[1]
    print(f"{stage if stage == 'torch' else f'ZeRO-{stage}'}: never reached, 1 becomes {untouched}; left out of a step, 0.89 becomes {left}; frozen, {kept}")
    assert (untouched, left, kept) == (never, idle, frozen), f"expected {never}, {idle}, {frozen}"
torch.distributed.destroy_process_group()
PYTHON
