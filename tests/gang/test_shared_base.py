"""One frozen base under all roles equals a network for each of them, and costs one."""

from __future__ import annotations

import gc
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from torch import nn

from ray_distill.checkpoint import Checkpoint
from ray_distill.checkpoint.network import load_network
from ray_distill.config import RunConfig
from ray_distill.export.student import export
from ray_distill.plan.network import parameters
from ray_distill.rng import StatelessRng
from ray_distill.train.worker.build import build_engines
from ray_distill.train.worker.step import train_step
from tests.checkpoints import write
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.gang.test_engines import ADAPTERS, TOLERANCE, assert_moved, distance
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.toys import run_config

SHARED = jobs.Case(zero=1, micro_batch=8, lora=ADAPTERS, same_weights=True, shared_base=True)
STEPS = 20


@pytest.fixture(scope="module")
def separate(gang: Gang) -> dict:
    return gang.run(jobs.run, replace(SHARED, shared_base=False), STEPS, world=1)[0]


@pytest.mark.parametrize(
    ("world", "case"),
    [
        (1, replace(SHARED, frozen_zero=0)),
        pytest.param(2, replace(SHARED, zero=0, frozen_zero=0, micro_batch=4), marks=pytest.mark.slow),
        pytest.param(2, replace(SHARED, zero=2, micro_batch=2, gradient_checkpointing=True), marks=pytest.mark.slow),
        pytest.param(4, replace(SHARED, frozen_zero=3, micro_batch=1), marks=pytest.mark.slow),
    ],
    ids=["whole", "zero0", "zero3-checkpointed", "zero3-accumulated"],
)
def test_it_equals_separate_networks(gang: Gang, separate: dict, world: int, case: jobs.Case) -> None:
    assert_moved(separate, jobs.initial(case))
    for result in gang.run(jobs.run, case, STEPS, world=world):
        assert result["tensors"].keys() == separate["tensors"].keys()
        assert distance(result, separate) < TOLERANCE
        assert result["frozen"][0] == result["frozen"][1]


def test_an_int8_base_stays_and_its_adapters_learn(gang: Gang) -> None:
    case = replace(SHARED, dtype="bfloat16", base_precision="int8", zero=2, micro_batch=4)
    for result in gang.run(jobs.run, case, 3, world=2):
        assert result["frozen"][0] == result["frozen"][1]
        moved = {n for n, t in jobs.initial(case).items() if not torch.equal(t, result["tensors"][n])}
        assert {name.split("/")[0] for name in moved} == {"student", "fake_score"}


def config_of(folder: Path, shared: bool, **changes) -> RunConfig:
    """Configuration of two LoRA roles on a ZeRO-3 base, with an average; ``folder`` has the tiny model."""
    zero = {} if shared else {"zero": 3}
    trained = {"lora": {"rank": 4, "alpha": 8}, "optimizer": {"learning_rate": jobs.LR}, **zero}
    return run_config(
        folder,
        model__shared_base=shared,
        method={"name": "dmd", "student_interval": 2},
        roles={"student": {"ema_decay": 0.5, **trained}, "fake_score": trained},
        train__micro_batch=4,
        **changes,
    )


def trained(rank: int, world: int, config: RunConfig, save: str, resume: bool, start: int, steps: int) -> dict:
    """Train, then sample as a validation does, with the average from the checkpoint."""
    engines = build_engines(config)
    if resume:
        engines.load(Checkpoint(Path(save)))
    teacher = engines.frozen_hash()
    for step in range(start, steps):
        batches = jobs.micro_batches(jobs.Case(micro_batch=4), step, rank, world)
        train_step(config.method, engines, batches, step, StatelessRng(0))
        if step == 1 and not resume:
            write(Path(save), engines.tensors(), {"step": 2, "roles": engines.state()}, rank, world, jobs.gather)
            dist.barrier()
    whole = sum(p.numel() for p in tiny_wan(0).parameters())
    bases = [p for held in engines._roles.values() for n, p in held.module.named_parameters() if ".lora_" not in n]
    return {
        "tensors": {f"{role}/{name}": tensor.clone() for role, name, tensor in engines.tensors()},
        "bases": sum(p.ds_tensor.numel() for p in bases) / whole,
        "same": teacher == engines.frozen_hash(),
    }


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
def test_adapters_zero3_average_validation_resume_and_export_together(gang: Gang, tmp_path: Path, shared: bool) -> None:
    WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=tiny_wan(1),
    ).save_pretrained(tmp_path / "model")
    config, last = config_of(tmp_path, shared), str(tmp_path / "c")
    straight = gang.run(trained, config, last, False, 0, 4, world=2)
    resumed = gang.run(trained, config, last, True, 2, 4, world=2)
    for one, other in zip(straight, resumed, strict=True):
        assert one["tensors"].keys() == other["tensors"].keys()
        assert {n for n, t in one["tensors"].items() if not torch.equal(t, other["tensors"][n])} == set()
        assert one["same"] and other["same"]
        assert one["bases"] == pytest.approx((1 if shared else 3) / 2, rel=0.03)
    average = load_network(config, "student", Path(last))
    student = load_network(config, "student", Path(last), averaged=False)
    exported = WanTransformer3DModel.from_pretrained(export(config, Path(last), SHAPE) / "transformer")
    seen = [predict(network) for network in (average, student, tiny_wan(1), exported)]
    torch.testing.assert_close(seen[0], seen[3], rtol=0, atol=1e-5)
    assert min((a - b).abs().max() for a, b in itertools.combinations(seen[:3], 2)) > 1e-4
    # The average of a run that began with B = 0: half of the student's adapter after its one update.
    pairs = Checkpoint(Path(last)).tensors("student", "ema"), Checkpoint(Path(last)).tensors("student", "weights")
    for name in (name for name in pairs[0] if "lora_B" in name):
        torch.testing.assert_close(pairs[0][name], 0.5 * pairs[1][name], rtol=1e-5, atol=1e-8)


def predict(network: nn.Module) -> torch.Tensor:
    x, text = (torch.ones(1, *shape) * torch.linspace(-1, 1, shape[-1]) for shape in (SHAPE, TEXT))
    with torch.no_grad():
        return network(x, torch.tensor([500.0]), text, return_dict=False)[0]


def live() -> dict[int, torch.UntypedStorage]:
    """Storages of all tensors that Python holds, by address; while one is held no other gets its address."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.device.type == "cpu"]
    storages = [t.untyped_storage() for t in tensors] + [
        p.ds_tensor.untyped_storage() for p in tensors if hasattr(p, "ds_tensor")
    ]
    return {s.data_ptr(): s for s in storages if s.data_ptr()}


def held(rank: int, world: int, config: RunConfig) -> int:
    """Bytes of all tensors on a rank after two updates of each role, including engines and buffers."""
    before = live()
    engines = build_engines(config)
    for step in range(2):
        batches = jobs.micro_batches(jobs.Case(micro_batch=4), step, rank, world)
        train_step(config.method, engines, batches, step, StatelessRng(0))
    del batches
    return sum(storage.nbytes() for address, storage in live().items() if address not in before)


@pytest.mark.parametrize("zero", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_it_costs_one_network_and_the_adapters(gang: Gang, tmp_path: Path, zero: int) -> None:
    sizes = {"num_attention_heads": 4, "attention_head_dim": 32, "ffn_dim": 512, "num_layers": 4}
    model = WanTransformer3DModel(in_channels=4, out_channels=4, text_dim=8, freq_dim=16, rope_max_seq_len=32, **sizes)
    model.save_pretrained(tmp_path / "model/transformer")
    trained = {"lora": {"rank": 1}, "optimizer": {"learning_rate": jobs.LR}}
    roles = {"student": trained | {"ema_decay": 0.9}, "fake_score": trained, "teacher": {"zero": zero}}
    config = run_config(
        tmp_path,
        model__shared_base=True,
        method={"name": "dmd", "student_interval": 1},
        roles=roles,
        train__micro_batch=4,
    )
    world, whole = 2, sum(4 * p.numel() for p in model.parameters())
    adapter = sum(parameters(config, "student").every)
    # An adapter and its gradients whole, masters, moments and average in shards; DeepSpeed's bucket and flat copy.
    of_adapters = 4 * adapter * (2 * (1 + 1 + 2) + (3 + 3 + 1) / world)
    for size in gang.run(held, config, world=world):
        assert whole / (world if zero == 3 else 1) < size < 1.15 * whole / (world if zero == 3 else 1) + of_adapters
