"""Two students are exported as one pipeline of two experts, which diffusers alone samples as we do; so are adapters."""

import json

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

from ray_distill.checkpoint import Checkpoint
from ray_distill.checkpoint.layout import folder_name
from ray_distill.diffusion.samplers import sample
from ray_distill.evaluate.compare import teachers
from ray_distill.evaluate.latents import denoiser
from ray_distill.evaluate.samples import Candidate
from ray_distill.export.student import export
from ray_distill.models.lora import add_lora, plain
from tests.checkpoints import write
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.two_experts import PARTS, phased_config, write_experts

STUDENTS = {"student": 1, "student_low": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A configuration of adapters on both experts, and its checkpoint: the average is what the students are."""
    folder = tmp_path_factory.mktemp("phased")
    write_experts(folder / "model")
    config = phased_config(folder, lora={"rank": 4, "alpha": 8})
    torch.manual_seed(0)
    tensors = []
    for role, seed in STUDENTS.items():
        network = tiny_wan(seed)
        add_lora(network, config.role(role).lora, seed=0)
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                for kind in ("weights", "ema"):
                    tensors.append((role, f"{kind}/{plain(name)}", 0.3 * torch.randn_like(parameter)))
    checkpoint = config.run_dir / folder_name(8)
    write(checkpoint, tensors, {"step": 8, "roles": {role: {} for role in STUDENTS}}, 0, 1, lambda part: [part])
    return config, checkpoint, export(config, checkpoint, SHAPE)


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return torch.randn(1, *SHAPE), torch.randn(1, *TEXT)


def ours(config, checkpoint, x_T, text):
    denoise = denoiser(config, Candidate("student", config.method.sampler(), checkpoint), torch.device("cpu"))
    return sample(denoise, config.method.sampler(), x_T, {"text": text}, noise=lambda i: x_T)


def theirs(pipe, recipe, x_T, text):
    """Call the plain pipeline; only the steps are set, which no argument of it takes."""
    times = recipe["timesteps"]
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    choose = pipe.scheduler.set_timesteps
    pipe.scheduler.set_timesteps = lambda *_, **__: choose(timesteps=times, sigmas=[t / 1000 for t in times])
    pipe.vae_scale_factor_spatial, pipe.vae_scale_factor_temporal = 4, 1
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 4 * SHAPE[2], "width": 4 * SHAPE[3], "num_frames": SHAPE[1], "num_inference_steps": len(times)}
    call = {"prompt_embeds": text, "guidance_scale": 1.0, "latents": x_T, "output_type": "latent"}
    return pipe(**call, **size)[0]


def test_diffusers_alone_samples_it_as_we_do(run, inputs):
    config, checkpoint, folder = run
    recipe = json.loads((folder / "recipe.json").read_text())
    pipe = WanPipeline.from_pretrained(folder, **PARTS)
    assert recipe["timesteps"] == pytest.approx([1000, 954.5455, 875, 700], abs=1e-4)
    assert pipe.config.boundary_ratio == recipe["boundary_ratio"] == pytest.approx((0.9545455 + 0.875) / 2)
    wanted = ours(config, checkpoint, *inputs)
    torch.testing.assert_close(theirs(pipe, recipe, *inputs), wanted, rtol=0, atol=1e-4)
    pipe.register_to_config(boundary_ratio=0.8)  # the low expert's first step goes to the high one
    assert (theirs(pipe, recipe, *inputs) - wanted).abs().max() > 1e-2
    before = ours(config, None, *inputs)
    assert (before - wanted).abs().max() > 1e-2


def test_adapters_of_both_experts_load_where_training_began(run, inputs):
    config, checkpoint, folder = run
    pipe = WanPipeline.from_pretrained(config.model.path, **PARTS)
    pipe.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
    pipe.load_lora_weights(folder, weight_name="pytorch_lora_weights_2.safetensors", load_into_transformer_2=True)
    recipe = json.loads((folder / "recipe.json").read_text())
    pipe.register_to_config(boundary_ratio=recipe["boundary_ratio"])
    wanted = ours(config, checkpoint, *inputs)
    torch.testing.assert_close(theirs(pipe, recipe, *inputs), wanted, rtol=0, atol=1e-4)
    card = (folder / "README.md").read_text()
    assert "load_into_transformer_2=True" in card and "`transformer_2` below" in card


def test_before_its_turn_the_low_expert_leaves_as_it_began(run, tmp_path):
    config, checkpoint, _ = run
    early = tmp_path / folder_name(2)
    tensors = [
        ("student", f"{kind}/{name}", tensor)
        for kind in ("weights", "ema")
        for name, tensor in Checkpoint(checkpoint).tensors("student", "ema").items()
    ]
    write(early, tensors, {"step": 2, "roles": {"student": {}}}, 0, 1, lambda part: [part])
    folder = export(config, early, SHAPE, folder=tmp_path / "export")
    low = WanPipeline.from_pretrained(folder, **PARTS).transformer_2
    assert torch.equal(low.proj_out.weight, tiny_wan(2).proj_out.weight)
    assert {path.name for path in folder.glob("*.safetensors")} == {"pytorch_lora_weights.safetensors"}


def test_the_teachers_are_sampled_by_their_own_boundary_and_guidance(run):
    config, *_ = run
    settings = config.evaluate.model_copy(update={"teacher_guidance": 4.0, "teacher_guidance_low": 3.0})
    many = teachers(config.model_copy(update={"evaluate": settings}))["teacher_many"]
    assert many.roles == ("teacher", "teacher_low") and many.sampler.experts.boundary == 875
    assert (many.sampler.scale(875.0), many.sampler.scale(874.9)) == (4.0, 3.0)
    assert many.sampler.nfe == 2 * len(many.sampler.timesteps)
    assert teachers(config)["teacher_same_nfe"].sampler.nfe == config.method.sampler().nfe == 4
