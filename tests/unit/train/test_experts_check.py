"""The pipeline and the method agree on two experts, or a run is refused before a cluster starts."""

import json
from pathlib import Path

import pytest
import yaml

from ray_distill.cli import main
from ray_distill.config import ConfigError
from ray_distill.train.driver.checks.experts import check_experts
from ray_distill.train.driver.checks.networks import check_networks, check_updates
from tests.two_experts import phased_config, write_experts
from tests.unit.toys import run_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    write_experts(folder / "model")
    return folder


def test_low_roles_begin_at_the_second_transformer(folder):
    config = phased_config(folder)
    check_experts(config)
    check_networks(config)
    sources = {role: config.source(role) for role in config.method.roles}
    for role, source in sources.items():
        assert source == (folder / "model/transformer_2" if role.endswith("_low") else folder / "model")
    own = config.roles["student_low"].model_copy(update={"path": folder / "other"})
    moved = config.model_copy(update={"roles": config.roles | {"student_low": own}})
    assert moved.source("student_low") == folder / "other"  # a pipeline of one transformer
    own = own.model_copy(update={"path": folder / "model"})
    assert config.model_copy(update={"roles": config.roles | {"student_low": own}}).source("student_low").name == (
        "transformer_2"
    )


def test_another_flavour_is_refused_by_name(folder, tmp_path):
    config = phased_config(folder, model__path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"model\.path = .*: this folder has no transformer_2, .* method\.name=dmd"):
        check_experts(config)
    with pytest.raises(
        ConfigError, match=r"method\.boundary = 0\.9: .* boundary_ratio = 0\.875; set method\.boundary=0\.875"
    ):
        check_experts(phased_config(folder, {"boundary": 0.9, "flow_shift": 9.0, "score_shift": 9.0}))
    write_experts(tmp_path / "other", boundary=None)
    with pytest.raises(ConfigError, match=r"model_index\.json names transformer_2 without boundary_ratio"):
        check_experts(phased_config(folder, model__path=str(tmp_path / "other")))
    teacher = {"prompts": str(tmp_path / "p.txt"), "teacher": {"steps": 4}}
    with pytest.raises(ConfigError, match=r"data\.datasets\.0\.teacher: .* has two experts"):
        check_experts(run_config(folder, data__datasets=[teacher], data__manifest=None))


@pytest.mark.parametrize("path", ["{home}/model", "models/Wan2.2-T2V-A14B-Diffusers"])
@pytest.mark.parametrize("verb", ["plan", "check"])
def test_one_student_of_two_experts_is_refused_by_plan_and_check(folder, capsys, path, verb):
    """A folder, and a published name without one: what check refuses is not planned."""
    path = path.format(home=folder)
    assert main([verb, "configs/quickstart.yaml", f"model.path={path}"]) == 2
    assert f"model.path = {Path(path).absolute()}: a Wan 2.2 pipeline of two experts" in capsys.readouterr().err


def test_a_boundary_that_check_refuses_is_not_planned(folder, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(phased_config(folder).dump()))
    assert main(["plan", str(path), "method.boundary=0.9", "method.flow_shift=9.0", "method.score_shift=9.0"]) == 2
    assert "boundary_ratio = 0.875; set method.boundary=0.875" in capsys.readouterr().err


def test_each_student_has_a_turn(folder):
    check_updates(phased_config(folder))
    with pytest.raises(ConfigError, match=r"train\.steps = 4: student_low is never updated .* or method\.high_steps"):
        check_updates(phased_config(folder, train__steps=4))
    with pytest.raises(ConfigError, match=r"train\.steps = 8: student is never updated"):
        check_updates(phased_config(folder, {"student_interval": 5}))


def test_a_missing_expert_of_a_role_is_named(folder, tmp_path):
    own = phased_config(folder).roles["student_low"].model_copy(update={"path": tmp_path / "nowhere"})
    config = phased_config(folder)
    with pytest.raises(ValueError, match=r"roles\.student_low\.path = .*nowhere: no transformer/config\.json there"):
        check_networks(config.model_copy(update={"roles": config.roles | {"student_low": own}}))


def test_each_expert_has_its_own_base(folder):
    lora = {"rank": 4}
    config = phased_config(folder, lora=lora, model__shared_base=True)
    assert config.adapters.keys() == {"student", "fake_score", "student_low", "fake_score_low"}
    message = r"roles\.student_low\.dtype = 'float32' and roles\.teacher_low\.dtype = 'bfloat16'"
    with pytest.raises(ValueError, match=message):
        phased_config(folder, lora=lora, model__shared_base=True, roles__teacher_low__dtype="bfloat16")
    with pytest.raises(ValueError, match=r"student_low starts from .* and the base is"):
        path = str(folder / "other")
        phased_config(folder, lora=lora, model__shared_base=True, roles__teacher_low__path=path)


def test_the_pipelines_boundary_is_read(folder):
    index = json.loads((folder / "model/model_index.json").read_text())
    assert index["boundary_ratio"] == 0.875 and index["transformer_2"]
