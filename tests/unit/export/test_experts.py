"""A detail expert: its checkpoint and what it began with are sampled by one boundary, and leave as one pipeline."""

import json

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

from ray_distill.checkpoint.layout import folder_name
from ray_distill.evaluate.latents import denoiser
from ray_distill.evaluate.samples import Candidate
from ray_distill.export.student import export
from ray_distill.models.lora import add_lora, plain
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.train.driver.check import check
from tests.checkpoints import write
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.toys import run_config

TEACHER, SEMANTIC = 1, 2
PARTS = dict.fromkeys(("tokenizer", "text_encoder", "vae"))


@pytest.fixture
def run(tmp_path):
    """A configuration of the fine mode, its checkpoint, and the detail expert as it was trained."""
    for folder, seed in (("model", TEACHER), ("semantic", SEMANTIC)):
        pipe = WanPipeline(**PARTS, scheduler=FlowMatchEulerDiscreteScheduler(), transformer=tiny_wan(seed))
        pipe.save_pretrained(tmp_path / folder)
    optimizer = {"learning_rate": 1e-3}
    lora = {"rank": 4, "whole": ["proj_out"]}
    roles = {
        "student": {"path": str(tmp_path / "semantic"), "lora": lora, "optimizer": optimizer},
        "discriminator": {"optimizer": optimizer},
    }
    method = {"name": "dcm", "mode": "fine", "shift": 3.0, "boundary": 0.5, "sampling_steps": 4}
    config = run_config(tmp_path, method=method, roles=roles)
    network = tiny_wan(SEMANTIC)
    add_lora(network, config.role("student").lora, seed=0)
    torch.manual_seed(0)
    tensors = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
            tensors.append(("student", f"weights/{plain(name)}", parameter))
    folder = config.run_dir / folder_name(3)
    write(folder, tensors, {"step": 3}, 0, 1, lambda part: [part])
    return config, folder, network


def velocities(denoise, sigma):
    torch.manual_seed(1)
    x_t, text = torch.randn(1, *SHAPE), {"text": torch.randn(1, *TEXT)}
    with torch.no_grad():
        return denoise(x_t, torch.tensor([sigma]), text).velocity


def test_validation_routes_as_the_method_says(run):
    config, folder, network = run
    recipe = config.method.sampler()
    assert recipe.timesteps[1] > recipe.experts.boundary > recipe.timesteps[2] == pytest.approx(750)
    denoise = denoiser(config, Candidate("student", recipe, folder), torch.device("cpu"))
    for timestep, expert in ((recipe.timesteps[1], tiny_wan(SEMANTIC)), (recipe.timesteps[2], network)):
        found, wanted = (velocities(d, timestep / 1000) for d in (denoise, WanDenoiser(expert)))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    before = denoiser(config, Candidate("student", recipe), torch.device("cpu"))
    found, wanted = (velocities(d, 0.5) for d in (before, WanDenoiser(tiny_wan(SEMANTIC))))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_the_export_is_a_pipeline_of_both(run):
    config, checkpoint, network = run
    folder = export(config, checkpoint, SHAPE)
    pipe = WanPipeline.from_pretrained(folder, **PARTS)
    recipe = json.loads((folder / "recipe.json").read_text())
    assert pipe.config.boundary_ratio == recipe["boundary_ratio"] == config.method.sampler().experts.boundary / 1000
    assert torch.equal(pipe.transformer.proj_out.weight, tiny_wan(SEMANTIC).proj_out.weight)
    assert isinstance(pipe.transformer_2, WanTransformer3DModel)
    found, wanted = (velocities(WanDenoiser(n), 0.5) for n in (pipe.transformer_2, network))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert not list(folder.glob("pytorch_lora*"))  # load_lora_weights would put it on the other expert


def test_a_missing_semantic_expert_is_named_before_a_cluster_starts(run, tmp_path):
    config, *_ = run
    student = config.role("student").model_copy(update={"path": tmp_path / "nowhere"})
    roles = config.roles | {"student": student}
    with pytest.raises(ValueError, match=r"roles\.student\.path = .*nowhere: no transformer/config\.json there"):
        check(config.model_copy(update={"roles": roles}))
