"""Stages of a run: what training holds, and when."""

from ray_distill.config.stages import stage_at, stages
from ray_distill.plan.estimate import checkpoint_sizes
from ray_distill.plan.network import Parameters
from tests.two_experts import phased_config
from tests.unit.toys import run_config


def test_most_methods_have_one_stage(tmp_path):
    config = run_config(tmp_path)
    (stage,) = stages(config)
    assert (stage.start, stage.stop, stage.finished) == (0, 800, {})
    assert stage.roles == {role: config.role(role) for role in ("student", "fake_score", "teacher")}


def test_a_finished_expert_is_held_without_optimizer_and_average(tmp_path):
    config = phased_config(tmp_path)
    first, second = stages(config)
    assert (first.start, first.stop, second.start, second.stop) == (0, 4, 4, 8)
    assert list(first.roles) == ["student", "fake_score", "teacher"]
    assert list(second.roles) == ["student", "student_low", "fake_score_low", "teacher_low"]
    assert second.finished == {"student": "ema"}
    still = second.roles["student"]
    assert (still.optimizer, still.ema_decay, still.zero) == (None, None, 2)
    assert [stage_at(config, step).start for step in (0, 3, 4, 7, 8)] == [0, 0, 4, 4, 4]


def test_a_shared_base_is_held_for_the_finished_expert_on_it(tmp_path):
    config = phased_config(tmp_path, lora={"rank": 4}, model__shared_base=True)
    assert "teacher" in stages(config)[1].roles
    assert list(stages(phased_config(tmp_path, {"low_levels": "all"}))[1].roles)[:2] == ["student", "teacher"]


def test_both_are_held_in_turns(tmp_path):
    (stage,) = stages(phased_config(tmp_path, {"schedule": "alternating"}))
    assert len(stage.roles) == 6 and not stage.finished


def test_the_largest_checkpoint_has_no_moments_of_the_finished_expert(tmp_path):
    config = phased_config(tmp_path)
    sizes = {role: Parameters((10,), () if role.startswith("teacher") else (10,)) for role in config.method.roles}
    assert sum(checkpoint_sizes(config, sizes).values()) == 4 * 10 * (2 + 4 + 3)
