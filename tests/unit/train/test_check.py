"""Errors of networks, known before a cluster starts."""

import shutil

import pytest
import torch
from diffusers import WanTransformer3DModel

from ray_distill.checkpoint import Checkpoint
from ray_distill.checkpoint.layout import folder_name
from ray_distill.config import ConfigError
from ray_distill.models.hashing import ends_hash, weights_hash
from ray_distill.train.driver.check import check_resumable
from ray_distill.train.driver.checks.networks import check_networks
from ray_distill.train.worker.build import bases
from tests.checkpoints import write
from tests.tiny_wan import tiny_wan
from tests.unit.toys import run_config

LORA = {"lora": {"rank": 2}, "optimizer": {"learning_rate": 1e-4}}


@pytest.fixture
def home(tmp_path):
    tiny_wan(0).save_pretrained(tmp_path / "model/transformer", max_shard_size="20KB")
    return tmp_path


def test_what_is_whole_passes(home):
    check_networks(run_config(home))
    check_networks(run_config(home, model__shared_base=True, roles={"student": LORA, "fake_score": LORA}))


def test_a_missing_file_is_named_with_the_role_that_needs_it(home):
    shutil.copytree(home / "model", home / "other")
    lost = sorted((home / "other/transformer").glob("*.safetensors"))[0]
    lost.unlink()
    with pytest.raises(ValueError, match=f"roles.fake_score.path = .*files that are not there: {lost}"):
        check_networks(run_config(home, roles__fake_score__path=str(home / "other")))


def test_a_role_that_cannot_load_its_source_is_named(home):
    shutil.copytree(home / "model", home / "other")
    config = home / "other/transformer/config.json"
    config.write_text(config.read_text().replace('"ffn_dim": 32', '"ffn_dim": 64'))
    with pytest.raises(
        ValueError, match="roles.fake_score.path = .*its weights are not those of this Wan.*ffn.net.0.proj"
    ):
        check_networks(run_config(home, roles__fake_score__path=str(home / "other")))


def test_roles_that_see_other_latents_are_named(home):
    config = dict(tiny_wan(0).config) | {"in_channels": 6}
    WanTransformer3DModel.from_config(config).save_pretrained(home / "other/transformer")
    message = "fake_score takes and gives in_channels 6, .*, and student in_channels 4,"
    with pytest.raises(ConfigError, match=message):
        check_networks(run_config(home, roles__fake_score__path=str(home / "other")))


def test_a_larger_teacher_is_no_error(home):
    config = dict(tiny_wan(0).config) | {"num_layers": 3, "ffn_dim": 64}
    WanTransformer3DModel.from_config(config).save_pretrained(home / "large/transformer")
    check_networks(run_config(home, roles__teacher__path=str(home / "large")))


@pytest.mark.parametrize("backend", ["sage", "_sage_qk_int8_pv_fp16_cuda"])
def test_attention_without_a_gradient_is_for_frozen_roles(home, backend):
    check_networks(run_config(home, roles__teacher__attention=backend))
    for change, key in (
        ({"roles__student__attention": backend}, "roles.student.attention"),
        ({"model__attention": backend}, "model.attention"),
    ):
        with pytest.raises(ConfigError, match=f"{key} = '{backend}': its kernels give no gradient, so student"):
            check_networks(run_config(home, **change))


def test_an_attention_backend_of_a_role_is_known_or_named(home):
    check_networks(run_config(home, roles__teacher__attention="_native_math"))
    with pytest.raises(ValueError, match="roles.teacher.attention = 'flashy': diffusers has no such backend"):
        check_networks(run_config(home, roles__teacher__attention="flashy"))


def test_targets_that_match_nothing_are_named(home):
    nothing = LORA | {"lora": {"targets": ["to_qq"]}}
    with pytest.raises(ValueError, match="roles.student.lora.targets: 'to_qq' is no layer"):
        check_networks(run_config(home, roles__student=nothing))


def test_adapters_do_not_go_on_upon_another_base(home):
    config = run_config(home, roles__student=LORA)
    assert bases(config) == {"student": weights_hash(home / "model")}
    state = {"step": 1, "config": config.dump(), "bases": bases(config)}
    folder = config.run_dir / folder_name(1)
    write(folder, [("student", "weights/x", torch.zeros(1))], state, 0, 1, lambda part: [part])
    check_resumable(config, Checkpoint(folder))
    earlier = config.run_dir / folder_name(2)  # with the hash that earlier versions kept
    state |= {"bases": {"student": ends_hash(home / "model")}}
    write(earlier, [("student", "weights/x", torch.zeros(1))], state, 0, 1, lambda part: [part])
    check_resumable(config, Checkpoint(earlier))
    shutil.rmtree(home / "model/transformer")
    tiny_wan(5).save_pretrained(home / "model/transformer")
    with pytest.raises(
        ConfigError, match="adapters of student that were trained on other weights than those of .*/model"
    ):
        check_resumable(config, Checkpoint(folder))
