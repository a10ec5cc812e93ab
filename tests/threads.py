"""Run the ranks of one clip as threads of one process, so that tests of sequence parallelism need no process group."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ray_distill.models.sequence import Ranks


class Meeting:
    """Values of all threads, exchanged at a barrier; ``log`` names every exchange of rank 0 and its bytes."""

    def __init__(self, size: int) -> None:
        self.size, self.slots, self.barrier = size, [None] * size, threading.Barrier(size, timeout=60)
        self.log: list[tuple[str, int]] = []

    def __call__(self, rank: int, value: Any, name: str) -> list[Any]:
        if rank == 0:
            self.log.append((name, value.nbytes))
        self.slots[rank] = value
        self.barrier.wait()
        every = list(self.slots)
        self.barrier.wait()
        return every


class _Swap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: ThreadRanks, name: str = "all-to-all") -> Tensor:
        ctx.ranks = ranks
        return torch.stack([piece[ranks.rank] for piece in ranks.meet(ranks.rank, x, name)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Swap.forward(ctx, gradients[0], ctx.ranks), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: ThreadRanks) -> Tensor:
        ctx.ranks = ranks
        return torch.cat(ranks.meet(ranks.rank, x, "all-gather"), dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ranks = ctx.ranks
        every = ranks.meet(ranks.rank, gradients[0], "reduce-scatter")
        return ranks.own(torch.stack(every).sum(0)), None


class ThreadRanks(Ranks):
    size: int = 0
    rank: int = 0

    def __init__(self, meet: Meeting, rank: int) -> None:
        for name, value in (("group", None), ("meet", meet), ("size", meet.size), ("rank", rank)):
            object.__setattr__(self, name, value)

    def swap(self, x: Tensor) -> Tensor:
        return _Swap.apply(x, self)

    def gather(self, x: Tensor) -> Tensor:
        return _Gather.apply(x, self)


def on_ranks(size: int, work: Callable[[ThreadRanks], Any]) -> tuple[list[Any], list[tuple[str, int]]]:
    """(results of ``work`` on each of ``size`` ranks, the exchanges of rank 0)."""
    meet = Meeting(size)

    def run(rank: int) -> Any:
        try:
            return work(ThreadRanks(meet, rank))
        except BaseException:
            meet.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size))), meet.log
