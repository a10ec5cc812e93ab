"""The harness itself: what it promises to the tests that stand on it."""

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from tests.gang.gang import Gang, RankDied

LR = 1e-3


def rank_and_sum(rank: int, world: int, offset: int) -> tuple[int, torch.Tensor]:
    value = torch.tensor([float(rank + offset)])
    dist.all_reduce(value)
    return rank, value


def raise_on(rank: int, world: int, culprit: int) -> None:
    if rank == culprit:
        raise ValueError("planted")
    dist.barrier()


def hang_on(rank: int, world: int, culprit: int) -> None:
    if rank == culprit:
        time.sleep(600)


def die_on(rank: int, world: int, culprit: int) -> None:
    if rank == culprit:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def train(rank: int, world: int, stage: int, fault: bool = False) -> dict[str, torch.Tensor]:
    """Three ZeRO steps on a global batch of 8; ``fault`` halves the gradient of the last rank."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
    x, y = torch.randn(3, 8, 8), torch.randn(3, 8, 4)
    share = slice(rank * 8 // world, (rank + 1) * 8 // world)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=LR),
        config={
            "train_micro_batch_size_per_gpu": 8 // world,
            "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        },
    )
    for x_step, y_step in zip(x, y, strict=True):
        loss = torch.nn.functional.mse_loss(engine(x_step[share]), y_step[share])
        engine.backward(loss * 0.5 if fault and rank == world - 1 else loss)
        engine.step()
    if stage == 3:
        assert all(p.ds_tensor.numel() < p.ds_numel or world == 1 for p in model.parameters())
    return {name: safe_get_full_fp32_param(p).clone() for name, p in model.named_parameters()}


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max((a[name] - b[name]).abs().max().item() for name in a)


def test_results_come_by_rank_and_the_world_may_change(gang: Gang) -> None:
    for world in (2, 4, 1, 3):
        expected = float(sum(range(world)) + 10 * world)
        assert gang.run(rank_and_sum, 10, world=world) == [(rank, torch.tensor([expected])) for rank in range(world)]


def test_the_gang_lives_on_between_runs(gang: Gang) -> None:
    assert gang.run(process_id, world=2) == gang.run(process_id, world=2)
    assert os.getpid() not in gang.run(process_id, world=2)


def process_id(rank: int, world: int) -> int:
    return os.getpid()


def test_an_exception_names_its_rank_and_the_next_run_works(gang: Gang) -> None:
    with pytest.raises(ValueError, match="planted") as caught:
        gang.run(raise_on, 2)
    assert "on rank 2" in caught.value.__notes__[0] and "in raise_on" in caught.value.__notes__[0]
    assert [rank for rank, _ in gang.run(rank_and_sum, 0)] == [0, 1, 2, 3]


def test_a_hang_names_who_was_waited_for_and_where_it_stands(gang: Gang) -> None:
    with pytest.raises(TimeoutError, match=r"ranks \[1\](.|\n)*in hang_on"):
        gang.run(hang_on, 1, world=2, timeout=2.0)


def test_a_dead_rank_is_named(gang: Gang) -> None:
    with pytest.raises(RankDied, match="rank 1 died with exit code -9"):
        gang.run(die_on, 1, world=2)


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_agrees_across_worlds_in_the_same_processes(gang: Gang, stage: int) -> None:
    """The proof that DeepSpeed keeps nothing of one world in the next; a fault of one rank must show."""
    reference = gang.run(train, stage, world=1)[0]
    for world in (2, 4, 1):
        for parameters in gang.run(train, stage, world=world):
            assert difference(parameters, reference) < 0.05 * LR
    assert difference(gang.run(train, stage, True, world=2)[0], reference) > 0.05 * LR
