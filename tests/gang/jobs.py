"""What the gang's ranks run: a tiny Wan distilled by DMD with random latent noise and made-up text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal
from unittest.mock import DEFAULT, patch

import torch
import torch.distributed as dist
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from torch import Tensor, nn

from ray_distill.checkpoint import Checkpoint
from ray_distill.config.roles import Optimizer, RoleConfig
from ray_distill.data.feed.order import share
from ray_distill.methods import DMD, FlowMatching
from ray_distill.models.exits import add_exits
from ray_distill.models.heads import head_blocks, random_heads
from ray_distill.models.int8 import quantize
from ray_distill.models.lora import LoRA, add_lora, plain
from ray_distill.models.sequence import Ranks, make_ranks, split
from ray_distill.models.shared import on_one_base
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.models.wan.sequence import exchange_heads
from ray_distill.rng import StatelessRng
from ray_distill.train.worker.engines import DeepSpeedEngines, NotFinite
from ray_distill.train.worker.rollouts import Rollouts
from ray_distill.train.worker.step import train_step
from ray_distill.train.worker.zero import DTYPES, settings
from ray_distill.types import Average, Batch, Method, Placement
from tests.checkpoints import write
from tests.tiny_wan import SHAPE, TEXT, tiny_wan

LR = 1e-3
GLOBAL_BATCH = 8


@dataclass(frozen=True)
class Case:
    """One small run; every field can be sent to the ranks."""

    zero: int = 2
    frozen_zero: int = 3
    dtype: str = "float32"
    micro_batch: int = 2
    method: Method = DMD(student_interval=2, teacher_guidance=2.0)  # noqa: RUF009 (frozen)
    ema_decay: float | None = 0.9
    ema_interval: int = 1
    ema_warmup: bool = False
    clip_norm: float = 1.0
    clip_value: float = 0.0
    gradient_checkpointing: bool = False
    lora: LoRA | None = None
    base_precision: Literal["dtype", "int8"] = "dtype"
    shared_base: bool = False
    """One base under all roles, held as the teacher is; ``separate`` roles then begin as it does, too."""
    same_weights: bool = False
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    offload: bool = False
    """Optimizer, and under ZeRO-3 parameters, in CPU memory."""
    sequence: int = 1
    """Ranks that share the tokens of a clip."""


def engines(case: Case) -> DeepSpeedEngines:
    optimizer = Optimizer(learning_rate=LR, betas=(0.9, 0.999), clip_norm=case.clip_norm, clip_value=case.clip_value)
    int8 = case.base_precision == "int8"
    small = RoleConfig(zero=case.zero, dtype=case.dtype, optimizer=optimizer)
    own = {key: getattr(case, key) for key in ("gradient_checkpointing", "lora", "base_precision", "gradient_dtype")}
    trained = small.model_copy(update=own | offloaded(case))
    frozen = RoleConfig(
        zero=0 if int8 else case.frozen_zero,
        gradient_checkpointing=case.gradient_checkpointing,
        base_precision=case.base_precision,
    )
    averages = {role: need for role, need in case.method.roles.items() if isinstance(need, Average)}
    configs = {
        role: frozen if need == "frozen" else small if role in case.method.heads else trained
        for role, need in case.method.roles.items()
        if need in ("frozen", "trained")
    }
    average = {key: getattr(case, key) for key in ("ema_decay", "ema_interval", "ema_warmup")}
    configs["student"] = trained.model_copy(update=average)
    followed = {"optimizer": None, "ema_decay": None}  # as RunConfig.role has it
    configs |= {role: configs[average.of].model_copy(update=followed) for role, average in averages.items()}
    # As weights are loaded: DeepSpeed casts, but not at stage 0.
    ranks = make_ranks(case.sequence, timeout_s=60)
    modules: Iterable[tuple[str, nn.Module]] = (
        (r, shared_by(ranks, case, r, network(case, r).to(DTYPES[c.dtype] if r in averages else None)))
        for r, c in configs.items()
    )
    if case.shared_base:
        assert case.lora is not None
        base = shared_by(ranks, case, "teacher", network(case, "teacher").to(DTYPES[case.dtype]))
        apart = {r: network(case, r) for r in case.method.heads}
        adapters = {r: case.lora for r in configs if r not in ("teacher", *apart)}
        configs["teacher"] = frozen.model_copy(update={"dtype": case.dtype})
        modules = chain(on_one_base(base, adapters, seed=0), apart.items())
    blocks, totals = {role: heads(case, role)[0] for role in case.method.heads}, dict.fromkeys(configs, 100)
    return DeepSpeedEngines(modules, configs, WanDenoiser, totals, case.micro_batch, blocks, averages)


def shared_by(ranks: Ranks | None, case: Case, role: str, module: nn.Module) -> nn.Module:
    """``module`` with its tokens split among ``ranks``; heads see them whole."""
    if role not in case.method.heads:
        split(module, ranks, exchange_heads)
    return module


def offloaded(case: Case) -> dict[str, bool]:
    return {"offload_optimizer": case.offload, "offload_parameters": case.offload and case.zero == 3}


def heads(case: Case, role: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return head_blocks(role, case.method.heads[role], "wan", tiny_wan(0).config)


def network(case: Case, role: str) -> nn.Module:
    if role in case.method.heads:
        blocks, widths = heads(case, role)
        return random_heads(len(blocks), widths, seed=0)
    module = tiny_wan(0 if role == "teacher" or case.same_weights else 1)
    if case.base_precision == "int8":
        quantize(module)
    if case.lora is not None and role != "teacher":
        add_lora(module, case.lora, seed=0)
    if count := case.method.exits.get(role):
        add_exits(module, count)
    return module


def micro_batches(case: Case, step: int, rank: int, world: int) -> list[Batch]:
    rng = StatelessRng(7, step)
    batches = []
    place = Placement(rank, world, case.sequence)
    for ids in step * GLOBAL_BATCH + share(GLOBAL_BATCH, place.data_rank, place.data_size, case.micro_batch):
        sample_ids = torch.from_numpy(ids)
        text = rng.noise("text", sample_ids, TEXT)
        x_0 = rng.noise("data", sample_ids, SHAPE)
        batches.append(Batch(sample_ids, SHAPE, {"text": text}, {"text": torch.zeros_like(text)}, x_0))
    return batches


def run(
    rank: int,
    world: int,
    case: Case,
    steps: int = 10,
    fault: Callable[[DeepSpeedEngines, int], None] | None = None,
    resume: str | None = None,
    start: int = 0,
    save: str | None = None,
    save_at: int | None = None,
) -> dict[str, Any]:
    """Train; returns every stored tensor by name, the counters, the last step's logs and the frozen hashes.

    ``save`` writes a checkpoint after ``save_at`` steps, or at the end."""
    held, rollouts = engines(case), rollouts_of(case, rank, world)
    if resume is not None:
        held.load(Checkpoint(Path(resume)))
        rollouts.load(Checkpoint(Path(resume)), torch.device("cpu"))
    before = held.frozen_hash() if any(n == "frozen" for n in case.method.roles.values()) else ""
    if fault is not None:
        fault(held, rank)
    logs: dict[str, Tensor] = {}
    for step in range(start, steps):
        batches = rollouts.join(micro_batches(case, step, rank, world))
        logs = train_step(case.method, held, batches, step, StatelessRng(0))
        if save is not None and step + 1 == (save_at or steps):
            state = {"step": step + 1, "roles": held.state()}
            own = chain(held.pieces(), rollouts.tensors())
            write(Path(save), held.tensors(cut=False), state, rank, world, gather, own)
            rollouts.saved()
            dist.barrier()
    return {
        "tensors": {f"{role}/{name}": tensor.clone() for role, name, tensor in held.tensors()},
        "state": held.state(),
        "logs": {name: float(value.mean()) for name, value in logs.items()},
        "frozen": (before, held.frozen_hash() if before else ""),
    }


def rollouts_of(case: Case, rank: int, world: int) -> Rollouts:
    place, chunks = Placement(rank, world, case.sequence), case.method.sampler().chunks
    positions = share(GLOBAL_BATCH, place.data_rank, place.data_size, case.micro_batch)
    return Rollouts(case.method.streamed, positions, chunks and chunks.window)


def averaged(
    rank: int, world: int, case: Case, steps: int, resume: str | None = None, start: int = 0
) -> list[tuple[dict[str, Tensor], dict[str, Tensor], Tensor, str]]:
    """At the start and after each step: full weights of student and average, the average's prediction, and the frozen
    hash."""
    held = engines(case)
    if resume is not None:
        held.load(Checkpoint(Path(resume)))
    (one, *_) = micro_batches(case, 0, rank, world)
    sigma = torch.full((len(one.sample_ids),), 0.5)

    def now() -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, str]:
        stored = [(role, name, tensor.clone()) for role, name, tensor in held.tensors() if name.startswith("weights/")]
        student, average = (
            {name.removeprefix("weights/"): t for r, name, t in stored if r == role}
            for role in ("student", "student_ema")
        )
        with torch.no_grad():
            seen = held.networks["student_ema"](one.x_0, sigma, one.cond).velocity
        return student, average, seen, held.frozen_hash()

    states = [now()]
    for step in range(start, steps):
        train_step(case.method, held, micro_batches(case, step, rank, world), step, StatelessRng(0))
        states.append(now())
    return states


def initial(case: Case) -> dict[str, Tensor]:
    """The weights from which ``run`` starts, in fp32, under the names that it returns."""
    start: dict[str, Tensor] = {}
    for role, need in case.method.roles.items():
        if need == "trained":
            for name, parameter in network(case, role).named_parameters():
                if parameter.requires_grad:
                    kinds = ("weights", "ema") if role == "student" and case.ema_decay is not None else ("weights",)
                    start |= {f"{role}/{kind}/{plain(name)}": parameter.detach() for kind in kinds}
    return start


def first_gradients(rank: int, world: int, clips: list[dict[str, float]]) -> dict[tuple[int, int], Tensor]:
    """By ZeRO stage and number in ``clips``: the gradient that AdamW was given, all parameters in one, seen in its
    first moment (1 - beta_1) g."""
    seen = {}
    for zero in (0, 1, 2, 3):
        for number, clip in enumerate(clips):
            case = Case(zero=zero, micro_batch=8 // world, method=FlowMatching(), ema_decay=None, **clip)
            tensors = run(rank, world, case, 1)["tensors"]
            seen[zero, number] = torch.cat([t.flatten() for n, t in tensors.items() if "/exp_avg/" in n]) / (1 - 0.9)
    return seen


def large_gradients(
    rank: int, world: int, norm: float, clips: list[float], dtype: str
) -> dict[tuple[int, float], dict[str, Any]]:
    """By ZeRO stage and clip: the norm that is logged, what AdamW was given and the weights after a step whose gradient
    has ``norm``."""
    case = Case(dtype=dtype, micro_batch=8 // world, method=FlowMatching(), ema_decay=None, clip_norm=0.0)
    factor = norm / run(rank, world, case, 1)["logs"]["student_grad_norm"]
    seen = {}
    for zero in (0, 1, 2, 3) if dtype == "float32" else (1, 2, 3):
        for clip in clips:
            result = run(rank, world, replace(case, zero=zero, clip_norm=clip), 1, partial(scale_by, factor))
            parts = {
                kind: torch.cat([t.flatten() for n, t in result["tensors"].items() if f"/{kind}/" in n])
                for kind in ("exp_avg", "weights")
            }
            given = parts["exp_avg"] / (1 - 0.9)
            seen[zero, clip] = {
                "norm": result["logs"]["student_grad_norm"],
                "given": given,
                "weights": parts["weights"],
            }
    return seen


def scale_by(factor: float, held: DeepSpeedEngines, rank: int) -> None:
    """Every loss, and so every gradient, is ``factor`` times what it was."""
    around_backward(held, lambda loss: loss * factor)


def around_backward(held: DeepSpeedEngines, change: Callable[[Tensor], Tensor]) -> None:
    backward = held.backward
    held.backward = lambda role, loss, last: backward(role, change(loss), last)  # type: ignore[method-assign]


def halve_rank_0(held: DeepSpeedEngines, rank: int) -> None:
    """Plant a fault: rank 0 contributes half of its gradient."""
    if rank == 0:
        around_backward(held, lambda loss: loss / 2)


def leave_out_the_reduction(held: DeepSpeedEngines, rank: int) -> None:
    """Plant a fault: gradients stay on the rank that computed them."""
    backward = held.backward

    def alone(role: str, loss: Tensor, last: bool) -> None:
        with patch.multiple(dist, all_reduce=DEFAULT, reduce=DEFAULT, reduce_scatter_tensor=DEFAULT):
            backward(role, loss, last)

    held.backward = alone  # type: ignore[method-assign]


def cut_off(held: DeepSpeedEngines, rank: int) -> None:
    """Plant a fault: no loss has a gradient."""
    around_backward(held, lambda loss: loss * 0)


def poison_rank_1(held: DeepSpeedEngines, rank: int) -> None:
    """Plant a fault: one rank's loss becomes nan."""
    if rank == 1:
        around_backward(held, lambda loss: loss * float("nan"))


def run_offloaded(rank: int, world: int, case: Case, *saves: Any) -> dict[str, Any]:
    """``run`` of four steps under ZeRO-3, which returns copies, as on a GPU with masters in CPU memory, and hands AdamW
    its masters in groups, as those of a large role."""
    stage = DeepSpeedZeroOptimizer_Stage3
    get = stage.get_local_fp32_param

    def copied(sharded: Any, parameter: Any, moment: str | None = None) -> Tensor:
        assert len(sharded.fp32_partitioned_groups_flat) > 1
        return get(sharded, parameter, moment).clone()

    def grouped(*args: Any) -> dict[str, Any]:
        made = settings(*args)
        return made | {"zero_optimization": made["zero_optimization"] | {"sub_group_size": 1000}}

    with (
        patch.object(stage, "get_local_fp32_param", copied),
        patch("ray_distill.train.worker.zero.settings", grouped),
    ):
        return run(rank, world, case, 4, None, *saves)


def poison_for_long(held: DeepSpeedEngines, rank: int) -> None:
    """Plant a fault: one rank's loss stays nan for longer than the limit."""
    held._nonfinite_limit = 2
    poison_rank_1(held, rank)


def end_of_patience(rank: int, world: int, case: Case) -> str:
    """The error that this rank raises where one rank's loss stays nan."""
    try:
        run(rank, world, case, 5, poison_for_long)
    except NotFinite as error:
        return str(error)
    return ""


def gather(value: Any) -> list[Any]:
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, value)
    return every


def begun(rank: int, world: int, case: Case, folder: str) -> dict[str, dict[str, Tensor]]:
    """A run of two steps without an average is stored; what engines with one hold that go on from it, that do so for a
    step more, and that begin anew with its weights. And the counters of the last."""
    stored = run(rank, world, replace(case, ema_decay=None), 2, None, None, 0, folder)["tensors"]
    result = {"stored": stored}
    for name, steps in (("resumed", 2), ("further", 3)):
        result[name] = run(rank, world, case, steps, None, folder, 2)["tensors"]
    held = engines(case)
    held.begin(Checkpoint(Path(folder)))
    result["new"] = {f"{role}/{name}": tensor.clone() for role, name, tensor in held.tensors()}
    result["state"] = held.state()
    return result
