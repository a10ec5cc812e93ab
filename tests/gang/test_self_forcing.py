"""A causal student in sharded engines: several chunks in one graph, forwards without gradient between them; rollouts
that go on from step to step; teacher forcing, whose clean half carries gradient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ray_distill.methods import CausalConsistency, SelfForcing, TeacherForcing
from ray_distill.types import Method
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.gang.test_engines import ADAPTERS, TOLERANCE, distance

METHOD = SelfForcing(num_frame_per_block=1, same_step_across_blocks=False, student_interval=2, teacher_guidance=2.0)
WINDOWED = replace(METHOD, window=2, sink=1, first_chunk_timesteps=(1000.0, 900.0, 757.0, 300.0))

LONG = {"num_training_frames": 2, "window": 2, "sink": 1}
STREAMED = replace(METHOD, **LONG, rollout_frames=7, rollout_overlap=1)
"""Windows that end at 2, 3, ... 7 frames; three updates in two steps."""


def test_a_rollout_goes_on_through_a_save_in_any_world_bit_for_bit_in_its_own(gang: Gang, tmp_path: Path) -> None:
    """Three steps leave it in the middle, after 5 of 7 frames. Resumed by ranks of other micro-batches, it agrees."""
    halves = jobs.Case(method=STREAMED, micro_batch=4)
    whole = gang.run(jobs.run, halves, 5, None, None, 0, str(tmp_path), 3, world=2)
    again = gang.run(jobs.run, halves, 5, None, str(tmp_path), 3, world=2)
    for one, other in zip(whole, again, strict=True):
        assert one["tensors"].keys() == other["tensors"].keys() and str(one["logs"]) == str(other["logs"])
        assert all(torch.equal(one["tensors"][name], other["tensors"][name]) for name in one["tensors"])
    alone = gang.run(jobs.run, jobs.Case(method=STREAMED, micro_batch=8), 5, None, str(tmp_path), 3, world=1)[0]
    assert distance(alone, whole[0]) < TOLERANCE
    forgets = jobs.Case(method=replace(STREAMED, rollout_at_save="restarted"), micro_batch=8)
    anew = gang.run(jobs.run, forgets, 5, None, str(tmp_path), 3, world=1)[0]
    assert distance(anew, alone) > TOLERANCE  # what a save keeps of it counts


def test_zero_3_with_checkpointing_agrees_with_one_rank(gang: Gang) -> None:
    alone = gang.run(jobs.run, jobs.Case(method=METHOD, micro_batch=8), 4, world=1)[0]
    sharded = jobs.Case(method=METHOD, zero=3, micro_batch=4, gradient_checkpointing=True)
    results = gang.run(jobs.run, sharded, 4, world=2)
    assert distance(results[0], alone) < TOLERANCE
    assert distance(results[0], results[1]) == 0.0
    assert alone["state"]["student"] == {"updates": 2, "skipped": 0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        jobs.Case(method=STREAMED, zero=3, gradient_checkpointing=True),
        jobs.Case(method=STREAMED, zero=2, dtype="bfloat16"),
        jobs.Case(method=STREAMED, zero=3, dtype="bfloat16", gradient_checkpointing=True),
        jobs.Case(method=STREAMED, zero=1, lora=ADAPTERS, same_weights=True, shared_base=True),
    ],
    ids=["zero3-checkpointed", "bf16", "bf16-zero3-checkpointed", "shared-base"],
)
def test_a_streamed_rollout_resumes_and_agrees_in_every_layout(gang: Gang, tmp_path: Path, case: jobs.Case) -> None:
    """A save in the middle of a sequence, after 5 of 7 frames: bit for bit in its own world. In fp32 it agrees with one
    rank under ZeRO-2, and on a shared base with networks of their own."""
    halves = replace(case, micro_batch=4)
    whole = gang.run(jobs.run, halves, 5, None, None, 0, str(tmp_path), 3, world=2)
    again = gang.run(jobs.run, halves, 5, None, str(tmp_path), 3, world=2)
    for one, other in zip(whole, again, strict=True):
        assert one["tensors"].keys() == other["tensors"].keys() and str(one["logs"]) == str(other["logs"])
        assert all(torch.equal(one["tensors"][name], other["tensors"][name]) for name in one["tensors"])
        assert one["frozen"][0] == one["frozen"][1]
    if case.dtype == "float32":
        plain = replace(case, zero=2, shared_base=False, gradient_checkpointing=False, micro_batch=8)
        assert distance(gang.run(jobs.run, plain, 5, world=1)[0], whole[0]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        WINDOWED,
        replace(METHOD, **LONG, rollout_frames=6),
        TeacherForcing(num_frame_per_block=1, history_noise=0.1),
        CausalConsistency(num_frame_per_block=1, window=2),
    ],
)
def test_causal_methods_in_zero_3_with_checkpointing_agrees_with_one_rank(gang: Gang, method: Method) -> None:
    alone = gang.run(jobs.run, jobs.Case(method=method, micro_batch=8), 4, world=1)[0]
    sharded = jobs.Case(method=method, zero=3, micro_batch=4, gradient_checkpointing=True)
    results = gang.run(jobs.run, sharded, 4, world=2)
    assert distance(results[0], alone) < TOLERANCE and distance(results[0], results[1]) == 0.0
