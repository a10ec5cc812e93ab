"""model.loras: the roles that get them, refusals by name before a run, and what identifies a run."""

import dataclasses
import shutil

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from safetensors.torch import load_file, save_file

from ray_distill.checkpoint import Checkpoint
from ray_distill.checkpoint.layout import folder_name
from ray_distill.checkpoint.network import load_network
from ray_distill.config import ConfigError
from ray_distill.data.source import Teacher
from ray_distill.evaluate.samples import Candidate, kept_name
from ray_distill.models.loading import load_transformer
from ray_distill.train.driver.check import check_resumable, warnings
from ray_distill.train.driver.checks.loras import check_loras
from ray_distill.train.driver.resume import check_teacher
from ray_distill.train.worker.build import bases, frozen_sources, transformer
from tests.checkpoints import write
from tests.tiny_wan import tiny_wan
from tests.two_experts import phased_config, write_experts
from tests.unit.toys import run_config

TRAINED = {"optimizer": {"learning_rate": 1e-4}}
ADAPTED = TRAINED | {"lora": {"rank": 2}}


def style(path, seed=0, layer="transformer.blocks.1.attn1.to_q"):
    torch.manual_seed(seed)
    save_file({f"{layer}.lora_A.weight": torch.randn(2, 24), f"{layer}.lora_B.weight": torch.randn(24, 2)}, path)
    return {"path": str(path), "weight": 0.5}


def change(file):
    """weight B A of a file of :func:`style`."""
    a, b = load_file(file["path"]).values()
    return file["weight"] * b @ a


@pytest.fixture
def home(tmp_path):
    WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=tiny_wan(0),
    ).save_pretrained(tmp_path / "model")
    return tmp_path


def query(network):
    return network.get_parameter("blocks.1.attn1.to_q.weight")


def test_each_role_of_model_path_gets_them_and_a_path_of_its_own_does_not(home):
    file = style(home / "style.safetensors")
    shutil.copytree(home / "model", home / "other")
    config = run_config(home, model__loras=[file], roles__fake_score__path=str(home / "other"), roles__teacher__zero=0)
    check_loras(config)
    before, after = query(tiny_wan(0)), query(tiny_wan(0)) + change(file)
    assert (after - before).abs().max() > 0.1
    for role, wanted in (("teacher", after), ("student", after), ("fake_score", before)):
        for network in (transformer(config, role), load_network(config, role, None)):
            assert torch.allclose(query(network), wanted, atol=1e-6)


def test_a_shared_base_and_an_int8_base_have_them_merged(home):
    file = style(home / "style.safetensors")
    shared = {"model__loras": [file], "model__shared_base": True, "roles__teacher": {"zero": 0}}
    config = run_config(home, **shared, roles__student=ADAPTED, roles__fake_score=ADAPTED)
    check_loras(config)
    assert torch.allclose(query(transformer(config, "teacher")), query(tiny_wan(0)) + change(file), atol=1e-6)
    small = run_config(home, model__loras=[file], roles__teacher={"base_precision": "int8", "zero": 0})
    layer = transformer(small, "teacher").get_submodule("blocks.1.attn1.to_q")
    rounded = layer.weight * layer.scale.view(torch.float32)
    assert (rounded - query(tiny_wan(0)) - change(file)).abs().max() < 0.51 * layer.scale.view(torch.float32).max()


def test_each_expert_gets_its_own(home):
    shutil.rmtree(home / "model")
    write_experts(home / "model")
    one, other = style(home / "one.safetensors"), style(home / "two.safetensors", 1)
    both = {"model__loras": [one | {"expert": "high"}, other | {"expert": "both"}]}
    config = phased_config(home, **both)
    check_loras(config)
    high, low = (query(load_network(config, role, None)) for role in ("teacher", "teacher_low"))
    assert torch.allclose(high, query(tiny_wan(1)) + change(one) + change(other), atol=1e-6)
    assert torch.allclose(low, query(tiny_wan(2)) + change(other), atol=1e-6)
    with pytest.raises(ConfigError, match=r"model.loras.0: .* has two experts; .*one.safetensors belongs to: expert: "):
        check_loras(phased_config(home, model__loras=[one]))
    with pytest.raises(ConfigError, match=r"roles.teacher_low.path = .* names others"):
        check_loras(phased_config(home, **both, roles__teacher_low__path=str(home / "model")))


def test_what_could_not_be_learned_from_is_refused(home):
    file = style(home / "style.safetensors")
    shutil.copytree(home / "model", home / "other")
    with pytest.raises(ConfigError, match=r"roles.teacher.path = .*/other names others, so that the run would not"):
        check_loras(run_config(home, model__loras=[file], roles__teacher__path=str(home / "other")))
    with pytest.raises(ConfigError, match="roles.teacher.init = random names others"):
        check_loras(run_config(home, model__loras=[file], roles__teacher__init="random"))
    with pytest.raises(ConfigError, match="model.loras.0.expert = low: .* has one transformer and no experts"):
        check_loras(run_config(home, model__loras=[file | {"expert": "low"}]))
    with pytest.raises(ValueError, match=r"blocks\.7\.attn1\.to_q\.lora_A\.weight' belongs to no linear layer"):
        check_loras(
            run_config(home, model__loras=[style(home / "x.safetensors", 0, "transformer.blocks.7.attn1.to_q")])
        )
    alone = {"method": {"name": "flow_matching"}, "roles": {"student": TRAINED | {"path": str(home / "other")}}}
    with pytest.raises(ConfigError, match="model.loras.0: no role begins from the weights"):
        check_loras(run_config(home, model__loras=[file], **alone))


def test_a_teacher_of_clips_has_them_and_its_clips_have_an_address_of_their_own(home):
    file = style(home / "style.safetensors")
    plain, merged = run_config(home).model.encoders, run_config(home, model__loras=[file]).model.encoders
    weaker = run_config(home, model__loras=[file | {"weight": 0.4}]).model.encoders
    assert len({models.transformer(Teacher()) for models in (plain, merged, weaker)}) == 3
    assert [len(merged.merged(Teacher(path=path))) for path in (None, home / "model")] == [1, 0]
    part = {"prompts": str(home / "p.txt"), "teacher": {"path": str(home / "model")}}
    (home / "p.txt").write_text("a kite\n")
    data = {"datasets": [part], "frames": 1, "height": 16, "width": 16}
    config = run_config(
        home, model__loras=[file], data=data, method={"name": "flow_matching"}, roles={"student": TRAINED}
    )
    assert any(
        "teacher.path: model.loras are merged into the weights of model.path" in line for line in warnings(config)
    )


def stored(config, step=1):
    state = {"step": step, "config": config.dump(), "bases": bases(config), "sources": frozen_sources(config)}
    folder = config.run_dir / folder_name(step)
    write(folder, [("student", "weights/x", torch.zeros(1))], state, 0, 1, lambda part: [part])
    return Checkpoint(folder)


@pytest.mark.parametrize(
    "roles", [{"student": ADAPTED, "fake_score": ADAPTED}, {"student": TRAINED, "fake_score": TRAINED}]
)
def test_a_run_does_not_go_on_with_another_lora(home, roles):
    file = style(home / "style.safetensors")
    config = run_config(home, model__loras=[file], roles=roles)
    last = stored(config)
    check_teacher(config, last)
    check_resumable(config, last)
    moved = style(home / "moved.safetensors")
    check_teacher(run_config(home, model__loras=[moved], roles=roles), last)
    other = style(home / "other.safetensors", 1)
    for loras in ([file | {"weight": 0.6}], [other], []):
        changed = run_config(home, model__loras=loras, roles=roles)
        with pytest.raises(ConfigError, match="was trained with another teacher than the one in .*/model"):
            check_teacher(changed, last)
        with pytest.raises(ConfigError, match="holds .*student that .* other weights than those of"):
            check_resumable(changed, last)
    plain = stored(run_config(home, roles=roles), 2)
    with pytest.raises(ConfigError, match=r"than the one in .* with model.loras \(0.5 of .*style.safetensors\)"):
        check_teacher(config, plain)


def test_a_run_without_a_teacher_does_not_go_on_with_another_lora(home):
    alone = {"method": {"name": "flow_matching"}, "roles": {"student": TRAINED}}
    file = style(home / "style.safetensors")
    last = stored(run_config(home, model__loras=[file], **alone))
    for loras in ([file | {"weight": 0.6}], []):
        with pytest.raises(ConfigError, match="holds a student that began from other weights than those of"):
            check_resumable(run_config(home, model__loras=loras, **alone), last)
    plain = stored(run_config(home, **alone), 2)
    check_resumable(run_config(home, **alone), plain)
    with pytest.raises(ConfigError, match="holds a student that began from other weights"):
        check_resumable(run_config(home, model__loras=[file], **alone), plain)


def test_samples_of_the_teacher_are_kept_for_its_loras_alone(home):
    file = style(home / "style.safetensors")
    config = run_config(home)
    teacher = Candidate("teacher", config.method.sampler(), None)
    names = {
        kept_name(run_config(home, model__loras=loras), dataclasses.replace(teacher), ["a"], 0)
        for loras in ([], [file], [file | {"weight": 0.4}])
    }
    assert len(names) == 3


def test_without_loras_a_network_is_that_of_its_files(home):
    config = run_config(home)
    ours = load_transformer("wan", config.model.path).state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in tiny_wan(0).state_dict().items())
