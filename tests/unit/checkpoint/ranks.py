"""Ranks as threads, which do what a gang of processes does where only files matter."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from ray_distill.checkpoint import Checkpoint
from tests.checkpoints import write

NAMES = ["blocks.0.weight", "blocks.0.bias", "scale"]
SHAPES = [(3, 4), (5,), ()]
ROLES = ("student", "fake_score")


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    for role in ROLES:
        for name, shape in zip(NAMES, SHAPES, strict=True):
            for kind in ("weights", "exp_avg", "exp_avg_sq", "ema"):
                yield role, f"{kind}/{name}", torch.randn(shape, generator=generator)


def together(world, call):
    """Call ``call(rank, gather)`` on each of ``world`` ranks; returns their results or exceptions, by rank."""
    meeting, given = threading.Barrier(world, timeout=20), [None] * world

    def gather_of(rank):
        def gather(value):
            given[rank] = value
            meeting.wait()
            every = list(given)
            meeting.wait()
            return every

        return gather

    with ThreadPoolExecutor(world) as pool:
        asked = [pool.submit(call, rank, gather_of(rank)) for rank in range(world)]
        return [future.exception() or future.result() for future in asked]


def write_all(folder, step, world=2, seed=0, **state):
    """Write a checkpoint as ``world`` ranks do."""
    whole = {"step": step, "roles": {"student": {"updates": step}}, **state}
    results = together(world, lambda rank, gather: write(folder, tensors(seed), whole, rank, world, gather))
    assert results == [None] * world, results
    return Checkpoint(folder)
