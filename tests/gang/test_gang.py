"""The harness itself keeps its promises to the other tests."""

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from tests.gang.gang import Gang, RankDied


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
    gang.run(process_id, world=2)  # ranks that must start first could take the whole time on a busy machine
    with pytest.raises(TimeoutError, match=r"ranks \[1\](.|\n)*in hang_on"):
        gang.run(hang_on, 1, world=2, timeout=6.0)


def test_a_dead_rank_is_named(gang: Gang) -> None:
    with pytest.raises(RankDied, match="rank 1 died with exit code -9"):
        gang.run(die_on, 1, world=2)
