"""A rank's bytes at 14B among 64 ranks, as DeepSpeed holds them in torch's fake process group, against the plan."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from accelerate import init_empty_weights
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from ray_distill.config import RoleConfig
from ray_distill.config.roles import Optimizer
from ray_distill.models import family
from ray_distill.models.lora import LoRA
from ray_distill.models.shared import on_one_base
from ray_distill.plan.memory import state
from ray_distill.plan.network import Parameters, adapter_sizes, sizes
from tests.gang.test_plan import gradients, size

WORLD = 64
WAN = family("wan")
PUBLISHED = WAN.published_folder / "Wan2.1-T2V-14B-Diffusers.json"
SHARDED = RoleConfig(zero=3, dtype="bfloat16")
TRAINED = RoleConfig(zero=3, dtype="bfloat16", optimizer=Optimizer(learning_rate=1e-3))
STUDENT = TRAINED.model_copy(update={"ema_decay": 0.9})
CASES = {
    "trained": {"student": STUDENT},
    "frozen": {"teacher": SHARDED},
    "on one base": {"teacher": SHARDED, "student": STUDENT, "fake_score": TRAINED},
}
ADAPTER = LoRA(rank=128)


class Zeros:
    """Weights of zeros for ``network``, in bf16, without memory."""

    def __init__(self, network: nn.Module) -> None:
        self.shapes = {name: parameter.shape for name, parameter in network.named_parameters()}

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.zeros((), dtype=torch.bfloat16).expand(self.shapes[name])

    def dtype(self, name: str) -> torch.dtype:
        return torch.bfloat16


def held_bytes(case: str) -> dict[str, dict[str, int]]:
    """Bytes that rank 0 of 64 holds, by role and term, after one update."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": "8"}
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=WORLD)
    from ray_distill.train.worker import zero
    from ray_distill.train.worker.engines import DeepSpeedEngines
    from ray_distill.train.worker.light_deepspeed import deepspeed
    from ray_distill.train.worker.role import EMA
    from ray_distill.train.worker.shards import MOMENTS

    deepspeed.init_distributed("gloo", verbose=False)
    configs = CASES[case]

    def network(section: RoleConfig) -> nn.Module:
        with init_empty_weights(include_buffers=False):
            empty = WAN.transformer.from_config(json.loads(PUBLISHED.read_text())["transformer"])
        return zero.fill(empty, Zeros(empty), section)  # type: ignore[arg-type]

    def modules() -> Iterator[tuple[str, nn.Module]]:
        if len(configs) == 1:
            yield from ((role, network(section)) for role, section in configs.items())
        else:
            yield from on_one_base(network(SHARDED), dict.fromkeys(("student", "fake_score"), ADAPTER), 0)

    engines = DeepSpeedEngines(modules(), configs, WAN.denoiser, {}, 1)
    terms: dict[str, dict[str, int]] = {}
    for role, held in engines._roles.items():
        own = [p for name, p in held.engine.module.named_parameters() if held.trainable or "lora_" not in name]
        terms[role] = {"weights": size(getattr(p, "ds_tensor", p) for p in own)}  # a base counts none of its adapters'
        if held.trainable:
            terms[role] |= {
                "gradients": gradients(held),
                "masters": size(held.zero_optimizer.fp32_partitioned_groups_flat),
                "moments": size(s[moment] for s in held.optimizer.state.values() for moment in MOMENTS),
                "ema": size(s[EMA] for s in held.optimizer.state.values() if EMA in s),
            }
    return terms


@pytest.mark.parametrize("case", CASES)
def test_a_rank_of_64_holds_at_14b_what_the_plan_says(case: str) -> None:
    architecture = json.dumps(json.loads(PUBLISHED.read_text())["transformer"])
    every, adapters = sizes("wan", architecture), adapter_sizes("wan", architecture, ADAPTER)
    assert sum(every) == 14_288_491_584
    with multiprocessing.get_context("spawn").Pool(1) as process:
        held = process.apply(held_bytes, (case,))
    assert set(held) == set(CASES[case])
    for role, terms in held.items():
        own = every if case == "trained" else adapters
        planned = state(CASES[case][role], Parameters(every, ()) if role == "teacher" else Parameters(own, own), WORLD)
        assert terms == {term: pytest.approx(getattr(planned, term), rel=0.03) for term in terms}
