"""What model.shared_base asks of the roles, and says where they do not have it."""

from copy import deepcopy

import pytest

from ray_distill.config import ConfigError, RunConfig
from ray_distill.models.lora import LoRA
from tests.unit.toys import run_config

LORA = {"lora": {"rank": 2}, "optimizer": {"learning_rate": 1e-4}}


def shared(tmp_path, **changes) -> RunConfig:
    given = {"model__shared_base": True, "roles": {"student": LORA, "fake_score": deepcopy(LORA)}} | changes
    return run_config(tmp_path, **deepcopy(given))


def test_all_trained_roles_are_adapters(tmp_path):
    assert shared(tmp_path).adapters == {"student": LoRA(rank=2), "fake_score": LoRA(rank=2)}
    lcm = shared(tmp_path, method={"name": "lcm"}, roles={"student": LORA})
    assert list(lcm.adapters) == ["student", "student_ema"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roles__fake_score__lora": None}, "roles.fake_score is trained whole, and the base is frozen; give it lora"),
        ({"roles__student__lora": {"whole": ["proj_out"]}}, r"roles.student.lora.whole = \['proj_out'\]"),
        ({"roles__student__zero": 3}, "roles.student.zero = 3: its adapter is whole on each worker; use 1 or 2"),
        ({"roles__student__dtype": "bfloat16"}, "roles.student.dtype = 'bfloat16' and roles.teacher.dtype = 'float32'"),
        ({"roles__student__base_precision": "int8"}, "roles.student.base_precision = 'int8' and roles.teacher"),
        ({"roles__fake_score__path": "elsewhere"}, "fake_score starts from .*/elsewhere and the base is"),
        ({"roles__teacher": {"base_precision": "int8", "zero": 3}}, "ZeRO-3 cannot shard such weights"),
        ({"method": {"name": "flow_matching"}, "roles": {"student": LORA}}, "method 'flow_matching' has none"),
    ],
)
def test_what_cannot_stand_on_a_shared_base_is_named(tmp_path, changes, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        shared(tmp_path, **changes)
