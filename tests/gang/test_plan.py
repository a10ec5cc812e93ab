"""What `ray-distill plan` says of a rank's bytes, against the tensors that DeepSpeed really holds."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from torch import Tensor

from ray_distill.config import RoleConfig
from ray_distill.config.roles import Optimizer
from ray_distill.plan.memory import state
from ray_distill.plan.network import Parameters
from ray_distill.rng import StatelessRng
from ray_distill.train.worker.role import EMA
from ray_distill.train.worker.shards import MOMENTS
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.tiny_wan import tiny_wan

ADAMW = Optimizer(learning_rate=1e-3)


def size(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of the distinct storages behind ``tensors``."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t is not None}
    return sum(storages.values())


def flat(value: object) -> list[Tensor]:
    """The tensors in nested lists and mappings."""
    if isinstance(value, Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in inner for tensor in flat(item)]


def held_bytes(rank: int, world: int, case: jobs.Case) -> dict[str, dict[str, int]]:
    """By role and term after one update of each role; gradients at their most during a second."""
    engines = jobs.engines(case)
    step = case.method.student_interval - 1
    batches = jobs.micro_batches(case, step, rank, world)
    found: dict[str, dict[str, int]] = {}
    for again in (False, True):
        for update in case.method.updates(step):
            with engines.training(update.role):
                for i, batch in enumerate(batches, 1):
                    loss = update.loss(engines.networks, batch, StatelessRng(0, step), {}).loss
                    engines.backward(update.role, loss, last=i == len(batches))
                    if again:
                        role = update.role
                        most = found.setdefault(role, {"gradients": 0})
                        most["gradients"] = max(most["gradients"], gradients(engines._roles[role]))
                engines.step(update.role)
    for role, held in engines._roles.items():
        zero = held.zero_optimizer
        weights = [getattr(p, "ds_tensor", p) for p in held.engine.module.parameters()]
        terms = found.setdefault(role, {})
        terms["weights"] = size(weights)
        if held.trainable:
            names = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")
            masters = [m for name in names for m in getattr(zero, name, [])]  # none at stage 0
            known = {w.untyped_storage().data_ptr() for w in weights}
            terms["masters"] = size(m for m in masters if m.untyped_storage().data_ptr() not in known)
            states = held.optimizer.state.values()
            terms["moments"] = size(state[moment] for state in states for moment in MOMENTS)
            terms["ema"] = size(state[EMA] for state in states if EMA in state)
    return found


def gradients(held) -> int:
    zero = held.zero_optimizer
    parameters = list(held.engine.module.parameters())
    kept = [p.grad for p in parameters] + [getattr(p, "grad_accum", None) for p in parameters]
    stages = ("averaged_gradients", "all_grad_tensors", "grad_partitions_flat_buffer", "fp32_groups_gradients_flat")
    for name in stages:
        kept += flat(getattr(zero, name, None))
    return size(kept)


@pytest.mark.parametrize(
    ("world", "case"),
    [
        (2, jobs.Case(zero=0)),
        pytest.param(2, jobs.Case(zero=1), marks=pytest.mark.slow),
        pytest.param(2, jobs.Case(zero=1, dtype="bfloat16"), marks=pytest.mark.slow),
        pytest.param(2, jobs.Case(zero=1, dtype="bfloat16", gradient_dtype="bfloat16"), marks=pytest.mark.slow),
        pytest.param(4, jobs.Case(zero=2, dtype="bfloat16", micro_batch=1), marks=pytest.mark.slow),
        pytest.param(4, jobs.Case(zero=3, dtype="bfloat16"), marks=pytest.mark.slow),
        (2, jobs.Case(zero=3, dtype="bfloat16", gradient_dtype="bfloat16", micro_batch=4)),
    ],
)
def test_bytes_of_state_are_what_deepspeed_holds(gang: Gang, world: int, case: jobs.Case) -> None:
    every = tuple(p.numel() for p in tiny_wan(0).parameters())
    for found in gang.run(held_bytes, case, world=world):
        for role, terms in found.items():
            frozen = RoleConfig(zero=3)
            average = case.ema_decay if role == "student" else None
            own = {"zero": case.zero, "dtype": case.dtype, "gradient_dtype": case.gradient_dtype}
            trained = RoleConfig(optimizer=ADAMW, ema_decay=average, **own)
            plan = (
                state(frozen, Parameters(every, ()), world)
                if role == "teacher"
                else state(trained, Parameters(every, every), world)
            )
            assert terms == {term: pytest.approx(getattr(plan, term), rel=0.03) for term in terms}
