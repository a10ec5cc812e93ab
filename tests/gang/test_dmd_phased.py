"""Two experts under DMD: one after the other and in turns, resumed anywhere, in any world and on shared bases."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ray_distill.checkpoint import Checkpoint
from ray_distill.checkpoint.network import load_network
from ray_distill.config import RunConfig
from ray_distill.config.stages import stage_at
from ray_distill.rng import StatelessRng
from ray_distill.train.worker import zero
from ray_distill.train.worker.build import start_engines
from ray_distill.train.worker.engines import Engines
from ray_distill.train.worker.step import train_step
from tests.checkpoints import write
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.tiny_wan import tiny_wan
from tests.two_experts import RATE, TRAINED, phased_config, write_experts

LORA = {"rank": 4, "alpha": 8}
TOLERANCE = 0.05 * RATE
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    write_experts(folder / "model")
    return folder


def trained(rank: int, world: int, config: RunConfig, folder: Path, start: int = 0) -> Tensors:
    """Train as a worker does, with a checkpoint after each step; what the last one holds, and the frozen hash at the
    start and the end of each stage."""
    micro_batch = config.train.micro_batch
    last = Checkpoint(folder / f"{start}") if start else None
    stage = stage_at(config, start)
    engines = start_engines(config, stage, last)
    before = engines.frozen_hash()
    for step in range(start, config.train.steps):
        batches = jobs.micro_batches(jobs.Case(micro_batch=micro_batch), step, rank, world)
        train_step(config.method, engines, batches, step, StatelessRng(0))
        last = saved(engines, folder, step + 1, rank, world)
        engines.carry(last)
        if step + 1 == stage.stop:
            assert engines.frozen_hash() == before
            stage = stage_at(config, step + 1)
            engines.close()
            del engines
            zero.forget()
            engines = start_engines(config, stage, last)
            before = engines.frozen_hash()
    return {f"{role}/{name}": tensor.clone() for role, name, tensor in engines.tensors()}


def saved(engines: Engines, folder: Path, step: int, rank: int, world: int) -> Checkpoint:
    write(folder / f"{step}", engines.tensors(), {"step": step, "roles": engines.state()}, rank, world, jobs.gather)
    dist.barrier()
    return Checkpoint(folder / f"{step}")


def everywhere(rank: int, world: int, config: RunConfig, folder: Path) -> list[Tensors]:
    """A whole run, and runs that go on with it in the middle of either phase and where the second begins."""
    whole = trained(rank, world, config, folder)
    return [whole, *(trained(rank, world, config, folder, start) for start in (2, 4, 6))]


@pytest.mark.parametrize(
    ("zero", "shared"),
    [
        (2, False),
        pytest.param(0, False, marks=pytest.mark.slow),
        pytest.param(3, False, marks=pytest.mark.slow),
        pytest.param(2, True, marks=pytest.mark.slow),
    ],
)
def test_a_run_resumed_in_either_phase_equals_the_uninterrupted_one(
    gang: Gang, folder: Path, tmp_path: Path, zero: int, shared: bool
) -> None:
    more = {"lora": LORA, "model__shared_base": True} if shared else {}
    config = phased_config(folder, zero=zero, **more)
    for whole, *resumed in gang.run(everywhere, config, tmp_path, world=2):
        assert {name.split("/")[0] for name in whole} == {"student", "student_low", "fake_score_low"}
        for other in resumed:
            assert whole.keys() == other.keys()
            assert {name for name, tensor in whole.items() if not torch.equal(tensor, other[name])} == set()
    first, middle, end = (Checkpoint(tmp_path / str(step)) for step in (1, 4, 8))
    assert first.state["roles"].keys() == {"student", "fake_score"}
    assert end.state["roles"] == {
        "student": {"updates": 2, "skipped": 0},
        "student_low": {"updates": 2, "skipped": 0},
        "fake_score_low": {"updates": 4, "skipped": 0},
    }
    for kind in ("weights", "ema"):  # the finished expert leaves as it was
        before, after = middle.tensors("student", kind), end.tensors("student", kind)
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
        assert any(not torch.equal(before[name], t) for name, t in first.tensors("student", kind).items())
    assert not end.names("student", "exp_avg") and end.names("student_low", "exp_avg")
    source = load_network(config, "student_low", first.folder)  # its turn has not come
    assert torch.equal(source.proj_out.weight, load_network(config, "student_low", None).proj_out.weight)
    moved = load_network(config, "student_low", end.folder)
    assert any(not torch.equal(a, b) for a, b in zip(source.parameters(), moved.parameters(), strict=True))


def distance(one: Tensors, other: Tensors) -> float:
    names = [name for name in one if "/weights/" in name or "/ema/" in name]
    assert names and one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["high_then_low", "alternating"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["weights", "adapters"])
def test_worlds_stages_and_shared_bases_agree(
    gang: Gang, folder: Path, tmp_path: Path, schedule: str, lora: dict[str, int] | None
) -> None:
    def run(number: int, world: int, zero: int, micro_batch: int, **more: object) -> Tensors:
        given = {"lora": lora} if lora else {}
        config = phased_config(
            folder,
            {"schedule": schedule},
            zero=zero,
            train__workers=world,
            train__micro_batch=micro_batch,
            **given,
            **more,
        )
        return gang.run(trained, config, tmp_path / str(number), world=world)[0]

    reference = run(0, 1, 1, 8)
    if schedule == "alternating":
        assert {name.split("/")[0] for name in reference} == set(TRAINED)
    cases = [(2, 0, 4), (2, 2, 2), (2, 3, 4), (4, 3, 1)]
    for number, (world, stage, micro_batch) in enumerate(cases, 1):
        assert distance(run(number, world, stage, micro_batch), reference) < TOLERANCE
    if lora:
        for base in (0, 3):
            teachers = {"roles__teacher__zero": base, "roles__teacher_low__zero": base}
            shared = run(5 + base, 2, 2, 4, model__shared_base=True, **teachers)
            assert distance(shared, reference) < TOLERANCE


def live() -> int:
    """Bytes of all tensors that Python knows, each storage counted once."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    storages = [each.untyped_storage() for each in tensors if not each.is_meta]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def held_and_left(rank: int, world: int, config: RunConfig) -> tuple[int, int]:
    """Bytes that the first stage's engines hold after they were trained, and that are left of them when they end."""
    before, engines = live(), start_engines(config, stage_at(config, 0), None)
    for step in range(2):
        train_step(config.method, engines, jobs.micro_batches(jobs.Case(), step, rank, world), step, StatelessRng(0))
    held = live() - before
    engines.close()
    del engines
    zero.forget()
    return held, live() - before


@pytest.mark.parametrize("stage", [3, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (0, 1, 2))])
def test_engines_that_end_free_what_they_held(gang: Gang, folder: Path, stage: int) -> None:
    """Under ZeRO-3 autograd keeps the shells of its parameters."""
    ((held, left),) = gang.run(held_and_left, phased_config(folder, zero=stage), world=1)
    weights = sum(t.nbytes for t in tiny_wan(1).parameters())
    assert held > 2 * 4 * weights  # two networks, each with gradients or masters and two moments
    assert left < 0.02 * held
