"""What can be asked of one role, and what is refused by name."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from ray_distill.config import RunConfig, load_config
from ray_distill.config.roles import Optimizer, RoleConfig
from tests.unit.toys import run_config

CONFIGS = Path(__file__).parents[3] / "configs"


def test_lora_by_default_is_attention_at_the_scale_of_its_rank():
    lora = RoleConfig(lora={}).lora
    assert (lora.rank, lora.alpha, lora.targets) == (16, None, ("to_q", "to_k", "to_v", "to_out.0"))
    assert RoleConfig(lora={"rank": 8}).lora.peft()["lora_alpha"] == 8


def test_a_stored_configuration_builds_the_same_role_again(tmp_path):
    optimizer = {"learning_rate": 1e-4, "clip_value": 0.01, "schedule": "polynomial", "power": 2, "min_lr_ratio": 0.1}
    student = {"lora": {"rank": 8, "targets": ["to_q"]}, "optimizer": optimizer, "ema_decay": 0.9, "ema_interval": 5}
    config = run_config(tmp_path, roles__student=student)
    assert RunConfig.model_validate(config.dump()) == config


def test_norm_clips_unless_a_value_does():
    clips = [Optimizer(learning_rate=1, **given) for given in ({}, {"clip_value": 0.01}, {"clip_norm": 0})]
    assert [(each.clip_norm, each.clip_value) for each in clips] == [(1, 0), (0, 0.01), (0, 0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora": {"rank": 0}}, r"lora\.rank[\s\S]*greater than 0"),
        ({"lora": {"rank": -4}}, r"lora\.rank[\s\S]*greater than 0"),
        ({"lora": {"alpha": 0}}, r"lora\.alpha[\s\S]*greater than 0"),
        ({"lora": {"targets": []}}, r"lora\.targets[\s\S]*at least 1 item"),
        ({"lora": {"r": 4}}, r"lora\.r\b[\s\S]*not permitted"),
        ({"lora": {}, "init": "random"}, "init = 'random': lora adapts pretrained weights"),
        ({"gradient_dtype": "bfloat16"}, "gradient_dtype = 'bfloat16': only dtype bfloat16 under ZeRO-1, 2 or 3"),
        ({"offload_parameters": True}, "offload_parameters = true: only ZeRO-3's shards can be moved, and zero = 2"),
        ({"zero": 0, "dtype": "bfloat16"}, "zero = 0: a role without shards trains in float32"),
        (
            {"zero": 0, "offload_optimizer": True},
            "offload_optimizer = true: only ZeRO moves the optimizer, and zero = 0",
        ),
        ({"compile": True, "zero": 3}, "compile = true: ZeRO-3 gathers weights inside the blocks"),
        ({"ema_interval": 5}, "ema_interval = 5: the role keeps no average; give ema_decay"),
        ({"ema_warmup": True}, "ema_warmup = true: the role keeps no average; give ema_decay, or remove ema_warmup"),
        ({"ema_decay": 0.9, "ema_interval": 0}, r"ema_interval[\s\S]*greater than 0"),
        ({"optimizer.clip_value": 0.01, "optimizer.clip_norm": 1}, "clip_norm = 1 and clip_value = 0.01: only one"),
        ({"optimizer.clip_value": -1}, r"clip_value[\s\S]*greater than or equal to 0"),
        ({"optimizer.schedule": "cosine_with_min_lr"}, "give min_lr_ratio above 0"),
        ({"optimizer.min_lr_ratio": 0.1}, "min_lr_ratio = 0.1: schedule 'constant' has no lowest rate"),
        ({"optimizer.schedule": "linear", "optimizer.min_lr_ratio": 1.0}, r"min_lr_ratio[\s\S]*less than 1"),
        ({"optimizer.schedule": "cosine", "optimizer.power": 2}, "power = 2: only schedule 'polynomial' has a power"),
        ({"optimizer.schedule": "polynomial", "optimizer.power": 0}, r"power[\s\S]*greater than 0"),
    ],
)
def test_bad_roles(tmp_path, change, message):
    dotted = {f"roles__student__{key.replace('.', '__')}": value for key, value in change.items()}
    with pytest.raises(ValidationError, match=message):
        run_config(tmp_path, **dotted)


def test_a_frozen_role_has_no_adapter(tmp_path):
    with pytest.raises(ValidationError, match=r"roles\.teacher: this role is frozen; remove its lora and ema_decay"):
        run_config(tmp_path, roles__teacher={"lora": {"rank": 4}, "ema_decay": 0.9})


LCM = {"method": {"name": "lcm", "guidance": [1, 3]}, "roles": {}}


def test_an_average_is_held_as_what_it_is_of(tmp_path):
    student = {"zero": 2, "dtype": "bfloat16", "optimizer": {"learning_rate": 1e-4}, "ema_decay": 0.99, "path": "other"}
    lcm = LCM | {"roles": {"student": student | {"lora": {"rank": 8}, "gradient_checkpointing": True}}}
    config = run_config(tmp_path, **lcm)
    held = config.role("student_ema")
    assert (held.zero, held.dtype, held.lora.rank, held.optimizer, held.ema_decay) == (2, "bfloat16", 8, None, None)
    assert config.source("student_ema") == config.source("student") != config.model.path
    assert run_config(tmp_path, **lcm, roles__student__zero=3).role("student_ema").zero == 3
    assert config.method.guidance == (1.0, 3.0)
    assert RunConfig.model_validate(config.dump()) == config


def test_an_average_has_no_section(tmp_path):
    roles = {"student": {"optimizer": {"learning_rate": 1e-4}}, "student_ema": {"zero": 3}}
    with pytest.raises(ValidationError, match=r"roles\.student_ema: roles\.student and the method determine this role"):
        run_config(tmp_path, **LCM | {"roles": roles})
    with pytest.raises(ValidationError, match=r"roles\.student_ema: method 'lcm' has no such role"):
        run_config(tmp_path, **LCM | {"roles": roles, "method": {"name": "lcm", "target_decay": 0}})


HEADS = {"zero": 2, "optimizer": {"learning_rate": 1e-4}}


def test_a_discriminator_has_an_engine_of_its_own(tmp_path):
    config = run_config(tmp_path, method={"name": "dmd_gan"}, roles__discriminator=HEADS)
    assert config.role("discriminator").optimizer.learning_rate == 1e-4
    assert RunConfig.model_validate(config.dump()) == config
    with pytest.raises(ValidationError, match=r"roles\.discriminator\.optimizer: method 'dmd_gan' trains this role"):
        run_config(tmp_path, method={"name": "dmd_gan"})
    with pytest.raises(ValidationError, match=r"roles\.discriminator: method 'dmd' has no such role"):
        run_config(tmp_path, roles__discriminator=HEADS)


@pytest.mark.parametrize(
    "change",
    [
        {"path": "elsewhere"},
        {"init": "random"},
        {"lora": {"rank": 4}},
        {"gradient_checkpointing": True},
        {"ema_decay": 0.9},
    ],
)
def test_what_heads_have_no_use_for_is_refused(tmp_path, change):
    (key,) = change
    message = rf"roles\.discriminator: this role has small heads on features of teacher, .* remove its {key}"
    with pytest.raises(ValidationError, match=message):
        run_config(tmp_path, method={"name": "dmd_gan"}, roles__discriminator=HEADS | change)


def fine(tmp_path, **student):
    trained = {"optimizer": {"learning_rate": 1e-4}}
    lora = {"rank": 4, "whole": ["proj_out"]}
    roles = {"student": trained | {"path": "semantic", "lora": lora} | student, "discriminator": trained}
    return run_config(tmp_path, method={"name": "dcm", "mode": "fine"}, roles=roles)


def test_what_a_role_began_with_is_sampled_and_not_held(tmp_path):
    config = fine(tmp_path)
    assert config.source("semantic") == config.source("student") != config.source("teacher")
    assert config.role("semantic").lora is None
    assert config.held_roles == ("student", "teacher", "discriminator")
    assert RunConfig.model_validate(config.dump()) == config
    with pytest.raises(ValidationError, match=r"roles\.student\.path: .* samples with this role's first weights"):
        fine(tmp_path, path=None)


def test_a_fake_score_without_an_optimizer_follows_its_student(tmp_path):
    """It takes storage, adapters and optimizer, not the average; its own keys stay, and each key has its source."""
    student = {
        "zero": 1,
        "ema_decay": 0.9,
        "lora": {"rank": 4},
        "optimizer": {"learning_rate": 1e-4, "betas": [0, 0.99]},
    }
    tree = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text()) | {"roles": {"student": student}}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    loaded = load_config(path, ["roles.fake_score.zero=2"], environment={})
    ours, other = loaded.config.role("student"), loaded.config.role("fake_score")
    assert other.optimizer == ours.optimizer and other.lora == ours.lora and (other.zero, other.ema_decay) == (2, None)
    assert loaded.source("roles.fake_score.optimizer.learning_rate") == "as roles.student"
    assert loaded.source("roles.fake_score.zero") == "command line"
    own = load_config(path, ["roles.fake_score.optimizer={learning_rate: 1.0e-3}"], environment={}).config
    assert own.role("fake_score") == RoleConfig(optimizer={"learning_rate": 1e-3}), "a section with one stands as it is"


def test_a_method_without_a_fake_score_gets_none():
    assert "fake_score" not in load_config(CONFIGS / "lcm_quickstart.yaml", environment={}).config.roles
