"""LTX-Video is one adapter file: the same step distils it, and diffusers' own pipeline loads and agrees with it."""

import json

import pytest
import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel

from ray_distill.config import RunConfig
from ray_distill.diffusion.samplers import sample
from ray_distill.export.diffusers import SCHEDULERS, export_student
from ray_distill.methods import DMD
from ray_distill.models import family
from ray_distill.models.codec import load_codec
from ray_distill.models.conditions import collate
from ray_distill.models.loading import load_transformer
from ray_distill.models.lora import LoRA, add_lora, plain
from ray_distill.models.ltx.network import LTXDenoiser
from ray_distill.models.ltx.sample import fix_timesteps
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.spec import Field
from ray_distill.rng import StatelessRng
from ray_distill.types import Experts, Sampler
from tests.adapters import merge
from tests.tiny_ltx import SHAPE, TEXT, tiny_ltx
from tests.unit.toys import batch, run_config

DRAWN = torch.Generator().manual_seed(0)
X_T, PROMPT = torch.randn(2, *SHAPE, generator=DRAWN), torch.randn(2, *TEXT, generator=DRAWN)
SIGMA = torch.tensor([0.9, 0.3])


def masked(text):
    """Cond of ``text`` [B, L, D] without its zeros behind."""
    return collate([{"text": row[row.any(1)]} for row in text], {"text": Field(TEXT, padding="mask")})


def tiny_vae() -> AutoencoderKLLTXVideo:
    torch.manual_seed(0)
    small = (8, 8, 8, 8)
    return AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=small,
        decoder_block_out_channels=small,
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )


def test_the_adapter_calls_as_the_pipeline_does():
    """The pipeline's own packing, mask and scale; sigma 0.9 is its timestep 900."""
    network, text = tiny_ltx(0), PROMPT.clone()
    text[1, 3:] = 0.0
    ours = LTXDenoiser(network)(X_T, SIGMA, masked(text)).velocity
    tokens = network(
        hidden_states=LTXPipeline._pack_latents(X_T),
        encoder_hidden_states=text,
        timestep=1000 * SIGMA,
        encoder_attention_mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        num_frames=SHAPE[1],
        height=SHAPE[2],
        width=SHAPE[3],
        rope_interpolation_scale=(8 / 25, 32, 32),
        return_dict=False,
    )[0]
    torch.testing.assert_close(ours, LTXPipeline._unpack_latents(tokens, *SHAPE[1:]))
    behind = text.clone()
    behind[0, 4] += 1
    assert not torch.equal(LTXDenoiser(network)(X_T, SIGMA, masked(behind)).velocity[0], ours[0])


def test_levels_that_differ_by_frame():
    network = tiny_ltx(0)
    by_frame = LTXDenoiser(network)(X_T, SIGMA[:, None].expand(2, SHAPE[1]), masked(PROMPT)).velocity
    torch.testing.assert_close(by_frame, LTXDenoiser(network)(X_T, SIGMA, masked(PROMPT)).velocity, rtol=0, atol=1e-5)


def test_what_it_cannot_do_is_named():
    for asked in ({"chunks": (1, 2)}, {"features": (0,)}):
        with pytest.raises(ValueError, match="model.family = 'ltx': no causal calls and no features"):
            LTXDenoiser(tiny_ltx(0))(X_T, SIGMA, masked(PROMPT), **asked)
    with pytest.raises(ValueError, match="no features are taken"):
        family("ltx").features({})


def test_a_dmd_step_moves_student_and_fake_score():
    networks = {role: tiny_ltx(seed) for role, seed in (("student", 0), ("fake_score", 1), ("teacher", 2))}
    denoisers = {role: LTXDenoiser(network) for role, network in networks.items()}
    given = batch(range(2), SHAPE, cond=masked(PROMPT), uncond=masked(0 * PROMPT + 0.1))
    method = DMD(student_interval=1)
    for update in method.updates(0):
        role = update.role
        for other, network in networks.items():
            network.requires_grad_(other == role)
        loss = update.loss(denoisers, given, StatelessRng(0), {}).loss
        loss.backward()
        norms = {
            r: sum(float(p.grad.norm()) for p in n.parameters() if p.grad is not None) for r, n in networks.items()
        }
        assert torch.isfinite(loss) and norms[role] > 0
        assert all(norms[other] == 0 for other in norms.keys() - {role})
        networks[role].zero_grad()


@pytest.mark.parametrize("kind", ["sde", "ode"])
def test_a_round_trip_through_the_networks_layout(kind):
    """A network that knows the clip: its velocity, in tokens, leads every sampler from noise to that clip."""
    wanted = LTXPipeline._pack_latents(X_T)

    def network(hidden_states, timestep, **_):
        return ((hidden_states - wanted) / (timestep / 1000).reshape(-1, 1, 1),)

    drawn = torch.Generator().manual_seed(3)
    x_T = torch.randn(X_T.shape, generator=drawn)
    recipe, text = Sampler((1000.0, 757.0, 522.0), kind), masked(PROMPT)
    made = sample(LTXDenoiser(network), recipe, x_T, text, noise=lambda _: torch.randn(X_T.shape, generator=drawn))
    torch.testing.assert_close(made, X_T, rtol=0, atol=1e-5)


def test_adapters_go_on_it_and_into_it():
    network, lora = tiny_ltx(0), LoRA(rank=2)
    add_lora(network, lora, seed=0)
    trained = {plain(n): torch.full_like(p, 0.1) for n, p in network.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 2 * 4  # A and B of 4 layers of 2 attentions of 2 blocks
    merged = tiny_ltx(0)
    merge(merged, lora, trained)
    plainly = LTXDenoiser(tiny_ltx(0))(X_T, SIGMA, masked(PROMPT)).velocity
    assert (LTXDenoiser(merged)(X_T, SIGMA, masked(PROMPT)).velocity - plainly).abs().max() > 0.01


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ltx")
    LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(),
        text_encoder=None,
        tokenizer=None,
        transformer=tiny_ltx(0),
    ).save_pretrained(folder)
    return folder


def test_its_folder_is_loaded_and_its_vae_strides(pipeline):
    assert torch.equal(load_transformer("ltx", pipeline).proj_out.weight, tiny_ltx(0).proj_out.weight)
    codec = load_codec(pipeline / "vae")
    assert codec.stride == Pipeline("ltx", pipeline).codec.stride == (8, 32, 32)
    pixels = torch.rand(1, 3, 9, 32, 64) * 2 - 1
    latents = codec.encode(pixels)
    assert latents.shape == (1, *codec.latent_shape(9, 32, 64)) == (1, 4, 2, 1, 2)
    assert codec.decode(latents).shape == pixels.shape
    with pytest.raises(ValueError, match="frames=8: LTX-Video's VAE takes 8k\\+1 frames; use 1 or 9"):
        codec.latent_shape(8, 32, 32)


def test_normalisation_is_the_pipelines(pipeline):
    codec = load_codec(pipeline / "vae")
    codec.vae.latents_mean.copy_(torch.arange(4.0))
    codec.vae.latents_std.copy_(torch.arange(1.0, 5.0))
    pixels = torch.rand(1, 3, 9, 32, 32)
    raw = codec.vae.encode(pixels).latent_dist.mode()
    wanted = LTXPipeline._normalize_latents(raw, codec.vae.latents_mean, codec.vae.latents_std, 1.0)
    torch.testing.assert_close(codec.encode(pixels), wanted)


def test_a_run_of_it_is_configured_and_planned(pipeline, tmp_path):
    config: RunConfig = run_config(tmp_path, model__family="ltx", model__path=str(pipeline))
    from ray_distill.plan.estimate import estimate

    found = estimate(
        RunConfig.model_validate(config.dump() | {"data": config.data.model_dump() | {"height": 32, "width": 32}})
    )
    assert sum(found.parameters["student"].every) == sum(p.numel() for p in tiny_ltx(0).parameters())
    assert found.peak.total > 0 and found.latent == (4, 2, 1, 1)


def test_the_published_size():
    with torch.device("meta"):
        network = LTXVideoTransformer3DModel()
    assert sum(p.numel() for p in network.parameters()) == 1_923_385_472


@pytest.mark.parametrize("kind", ["sde", "ode"])
def test_an_export_is_sampled_by_diffusers_own_pipeline(pipeline, tmp_path, kind):
    sampler = Sampler((1000.0, 757.0, 522.0), kind)
    size = {"frames": 9, "height": 32, "width": 64, "fps": 25, "max_sequence_length": 5}
    folder = export_student(tmp_path / "out", tiny_ltx(7), pipeline, sampler, (4, 2, 1, 2), card={}, **size)
    assert "LTXPipeline" in (folder / "README.md").read_text() and "fix_timesteps" in (folder / "sample.py").read_text()
    network = LTXVideoTransformer3DModel.from_pretrained(folder / "transformer")
    scheduler = SCHEDULERS[kind].from_pretrained(folder / "scheduler")
    recipe = json.loads((folder / "recipe.json").read_text())
    parts = {"transformer": network, "scheduler": fix_timesteps(scheduler, recipe["timesteps"])}
    pipe = LTXPipeline.from_pretrained(pipeline, text_encoder=None, tokenizer=None, **parts)
    text, mask = PROMPT[:1].clone(), torch.tensor([[1, 1, 1, 1, 0]])
    torch.manual_seed(3)
    given = {"prompt_embeds": text, "prompt_attention_mask": mask, "guidance_scale": 1.0, "num_inference_steps": 3}
    theirs = pipe(height=32, width=64, num_frames=9, output_type="latent", **given)[0]
    torch.manual_seed(3)
    cond = {"text": text, "text_mask": mask.bool()}
    x_T = torch.randn(1, 4, 2, 1, 2)
    with torch.no_grad():
        ours = sample(LTXDenoiser(network), sampler, x_T, cond, cond, noise=lambda _: family("ltx").noise(x_T.shape))
    torch.testing.assert_close(theirs.transpose(1, 2).unflatten(2, (2, 1, 2)), ours, rtol=0, atol=1e-5)


def test_two_experts_do_not_leave_as_ltx(pipeline, tmp_path):
    sampler = Sampler((1000.0, 500.0), "ode", experts=Experts("student", "teacher", 700.0))
    with pytest.raises(ValueError, match="LTXPipeline samples neither chunks nor two experts"):
        export_student(
            tmp_path / "out",
            tiny_ltx(0),
            pipeline,
            sampler,
            (4, 2, 1, 2),
            card={},
            frames=9,
            height=32,
            width=64,
            fps=25,
            max_sequence_length=5,
        )
