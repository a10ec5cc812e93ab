"""bf16 means one thing under every ZeRO stage: the weights that compute, where masters begin, how gradients add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ray_distill.config.roles import RoleConfig
from ray_distill.methods import FlowMatching
from ray_distill.models.loading import hollow_transformer
from ray_distill.rng import StatelessRng
from ray_distill.train.worker import zero
from ray_distill.train.worker.build import build_engines
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.tiny_wan import tiny_wan
from tests.unit.toys import run_config

STAGES = (1, 2, 3)


def frozen(rank: int, world: int, folder: str) -> dict[int, Tensor]:
    """By stage: the velocity of a frozen bf16 network."""
    seen = {}
    x, text = torch.ones(1, 4, 3, 4, 4).bfloat16(), torch.ones(1, 5, 8).bfloat16()
    for stage in (0, *STAGES):
        held = RoleConfig(zero=stage, dtype="bfloat16")
        network, weights = hollow_transformer("wan", Path(folder), torch.bfloat16)
        engine = zero.initialize(zero.fill(network, weights, held), held, 1)
        with torch.no_grad():
            seen[stage] = getattr(engine, "module", engine)(x, torch.tensor([975.3]), text, return_dict=False)[0]
    return seen


def test_a_frozen_bf16_network_is_the_same_under_every_stage(gang: Gang, tmp_path: Path) -> None:
    tiny_wan(3).save_pretrained(tmp_path / "transformer")
    for seen in gang.run(frozen, str(tmp_path), world=2):
        assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
        # DeepSpeed's linear layer of stage 3 rounds the product before it adds the bias.
        torch.testing.assert_close(seen[3].float(), seen[0].float(), rtol=2**-6, atol=2**-6)


def beginnings(rank: int, world: int, folder: str, roles: dict[str, Any]) -> dict[int, dict[str, Tensor]]:
    """By stage: all that a checkpoint would keep before the first step, and the weights that compute."""
    found = {}
    for stage in STAGES:
        held = {name: {"zero": stage, "dtype": "bfloat16", **own} for name, own in roles.items()}
        engines = build_engines(run_config(Path(folder), method={"name": "flow_matching"}, roles=held))
        found[stage] = {f"{role}/{name}": t.clone() for role, name, t in engines.tensors()}
        if stage < 3:
            own = engines._roles["student"].module.named_parameters()
            found[stage] |= {f"computes/{name}": p.detach().clone() for name, p in own}
    return found


@pytest.mark.parametrize(
    "own",
    [
        {},
        pytest.param({"init": "random"}, marks=pytest.mark.slow),
        pytest.param({"offload_optimizer": True}, marks=pytest.mark.slow),
    ],
)
def test_masters_begin_from_the_published_fp32_weights(gang: Gang, tmp_path: Path, own: dict[str, Any]) -> None:
    """So do averages; what computes is their bf16 rounding."""
    tiny_wan(0).save_pretrained(tmp_path / "model" / "transformer", max_shard_size="20KB")
    student = {"optimizer": {"learning_rate": jobs.LR}, "ema_decay": 0.9, **own}
    results = gang.run(beginnings, str(tmp_path), {"student": student}, world=2)
    wanted = dict(tiny_wan(0).named_parameters())
    for found in results:
        for stage in STAGES:
            for name, published in wanted.items():
                master = found[stage][f"student/weights/{name}"]
                assert torch.equal(master, found[1][f"student/weights/{name}"])
                assert torch.equal(master, found[stage][f"student/ema/{name}"])
                assert "init" in own or torch.equal(master, published)
                if stage < 3:
                    assert torch.equal(found[stage][f"computes/{name}"], master.bfloat16())
            masters = torch.cat([t.flatten() for n, t in found[stage].items() if n.startswith("student/weights/")])
            assert (masters != masters.bfloat16().float()).float().mean() > 0.5


@pytest.mark.slow
def test_weights_published_in_bf16_are_masters_as_they_are(gang: Gang, tmp_path: Path) -> None:
    tiny_wan(0).bfloat16().save_pretrained(tmp_path / "model" / "transformer")
    student = {"optimizer": {"learning_rate": jobs.LR}}
    (found,) = gang.run(beginnings, str(tmp_path), {"student": student}, world=1)
    for stage in STAGES:
        for name, published in tiny_wan(0).bfloat16().named_parameters():
            assert torch.equal(found[stage][f"student/weights/{name}"], published.float())


SMALL, COUNT = 2**-9.5, 7
"""Below half of bf16's last place next to 1, and how many such micro-batches follow a whole one."""


def added_up(rank: int, world: int) -> dict[tuple[int, str], float]:
    """By stage and gradient_dtype: the sum of a gradient and COUNT times SMALL of it, as a multiple of the gradient."""
    found = {}
    for stage in STAGES:
        for dtype in ("float32", "bfloat16") if stage < 3 else ("float32",):
            case = jobs.Case(zero=stage, dtype="bfloat16", gradient_dtype=dtype, micro_batch=4, method=FlowMatching())
            found[stage, dtype] = gradient(case, rank, world, COUNT).dot(once := gradient(case, rank, world, 0)).item()
            found[stage, dtype] /= once.square().sum().item()
    return found


def gradient(case: jobs.Case, rank: int, world: int, more: int) -> Tensor:
    held = jobs.engines(jobs.replace(case, clip_norm=0.0, ema_decay=None))
    (batch, *_) = jobs.micro_batches(case, 0, rank, world)
    (update,) = case.method.updates(0)
    with held.training(update.role):
        for i in range(1 + more):
            loss = update.loss(held.networks, batch, StatelessRng(0), {}).loss
            held.backward(update.role, loss if i == 0 else SMALL * loss, i == more)
        held.step(update.role)
    return torch.cat([t.flatten() for _, name, t in held.tensors() if name.startswith("exp_avg/")]) / (1 - 0.9)


def test_small_micro_batches_add_up_in_gradient_dtype_under_every_stage(gang: Gang) -> None:
    for found in gang.run(added_up, world=2):
        for (stage, dtype), multiple in found.items():
            wanted = 1 + COUNT * SMALL if dtype == "float32" else 1
            assert multiple == pytest.approx(wanted, abs=2e-3), (stage, dtype)
