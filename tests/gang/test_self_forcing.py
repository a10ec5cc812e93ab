"""A causal student in sharded engines: several chunks in one graph, forwards without gradient between them."""

from __future__ import annotations

from ray_distill.methods import SelfForcing
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.gang.test_engines import TOLERANCE, distance

METHOD = SelfForcing(num_frame_per_block=1, same_step_across_blocks=False, student_interval=2, teacher_guidance=2.0)


def test_zero_3_with_checkpointing_agrees_with_one_rank(gang: Gang) -> None:
    alone = gang.run(jobs.run, jobs.Case(method=METHOD, micro_batch=8), 4, world=1)[0]
    sharded = jobs.Case(method=METHOD, zero=3, micro_batch=4, gradient_checkpointing=True)
    results = gang.run(jobs.run, sharded, 4, world=2)
    assert distance(results[0], alone) < TOLERANCE
    assert distance(results[0], results[1]) == 0.0
    assert alone["state"]["student"] == {"updates": 2, "skipped": 0}
