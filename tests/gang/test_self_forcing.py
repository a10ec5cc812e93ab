"""A causal student in sharded engines: several chunks in one graph, forwards without gradient between them; teacher
forcing, whose clean half carries gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_distill.methods import CausalConsistency, SelfForcing, TeacherForcing
from ray_distill.types import Method
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.gang.test_engines import TOLERANCE, distance

METHOD = SelfForcing(num_frame_per_block=1, same_step_across_blocks=False, student_interval=2, teacher_guidance=2.0)
WINDOWED = replace(METHOD, window=2, sink=1, first_chunk_timesteps=(1000.0, 900.0, 757.0, 300.0))


def test_zero_3_with_checkpointing_agrees_with_one_rank(gang: Gang) -> None:
    alone = gang.run(jobs.run, jobs.Case(method=METHOD, micro_batch=8), 4, world=1)[0]
    sharded = jobs.Case(method=METHOD, zero=3, micro_batch=4, gradient_checkpointing=True)
    results = gang.run(jobs.run, sharded, 4, world=2)
    assert distance(results[0], alone) < TOLERANCE
    assert distance(results[0], results[1]) == 0.0
    assert alone["state"]["student"] == {"updates": 2, "skipped": 0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        WINDOWED,
        TeacherForcing(num_frame_per_block=1, history_noise=0.1),
        CausalConsistency(num_frame_per_block=1, window=2),
    ],
)
def test_causal_methods_in_zero_3_with_checkpointing_agrees_with_one_rank(gang: Gang, method: Method) -> None:
    alone = gang.run(jobs.run, jobs.Case(method=method, micro_batch=8), 4, world=1)[0]
    sharded = jobs.Case(method=method, zero=3, micro_batch=4, gradient_checkpointing=True)
    results = gang.run(jobs.run, sharded, 4, world=2)
    assert distance(results[0], alone) < TOLERANCE and distance(results[0], results[1]) == 0.0
