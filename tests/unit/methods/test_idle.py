"""Keys that another key of the method makes ineffective are named before a run, and shipped settings have none."""

from dataclasses import replace
from pathlib import Path

import pytest

from ray_distill.config import load_config
from ray_distill.methods import DMD, PhasedDMD, SelfForcing

CONFIGS = Path(__file__).parents[3] / "configs"
SETTINGS = [path for path in sorted(CONFIGS.rglob("*.yaml")) if path.stem != "sweep_quickstart"]


@pytest.mark.parametrize(
    ("method", "key", "remedy"),
    [
        (DMD(flow_shift=5.0), "flow_shift = 5.0", {"warp_denoising_step": True}),
        (DMD(flow_shift=5.0), "flow_shift = 5.0", {"flow_shift": 1.0}),
        (DMD(ts_schedule=True, min_score_timestep=20), "min_score_timestep = 20", {"min_score_timestep": 0}),
        (DMD(ts_schedule=True, min_score_timestep=20), "min_score_timestep = 20", {"ts_schedule": False}),
        (DMD(diversity_steps=40), "diversity_steps = 40", {"diversity_steps": 30}),
        (
            DMD(rollout="ode", consistency_weight=0.5, student_exits=(1, 0, 0)),
            "consistency_weight = 0.5",
            {"student_exits": (1, 0, 1)},
        ),
        (SelfForcing(same_step_across_blocks=False, ts_schedule=True), "ts_schedule = True", {"ts_schedule": False}),
        (
            SelfForcing(same_step_across_blocks=False, ts_schedule_max=True),
            "ts_schedule_max = True",
            {"same_step_across_blocks": True},
        ),
        (
            PhasedDMD(
                warp_denoising_step=False, flow_shift=5.0, low_timesteps=(900.0, 450.0), high_timesteps=(1e3, 950.0)
            ),
            "flow_shift = 5.0",
            {"flow_shift": 7.0},
        ),
    ],
)
def test_a_key_without_effect_is_named_until_it_is_mended(method, key, remedy):
    (text,) = method.warnings(bf16=True)
    assert text.startswith(f"method.{key}: no effect, since ")
    assert replace(method, **remedy).warnings(bf16=True) == []


def test_chunks_with_their_own_exits_leave_the_lowest_timestep_its_effect():
    method = SelfForcing(same_step_across_blocks=False, ts_schedule=True, min_score_timestep=20)
    (text,) = method.warnings(bf16=False)
    assert "method.ts_schedule" in text and "same_step_across_blocks" in text
    assert method.score_levels(method.timesteps, None) == (20, 1000)


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_shipped_settings_have_none(path):
    assert load_config(path, environment={}).config.method.warnings(bf16=False) == []
