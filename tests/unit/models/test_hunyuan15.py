"""HunyuanVideo 1.5: two text encoders with masks, guidance by a component; equal to diffusers' own pipeline."""

import json
import sys
from pathlib import Path
from shutil import copytree

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)
from diffusers.guiders import ClassifierFreeGuidance

from ray_distill.diffusion.samplers import sample
from ray_distill.errors import ConfigError
from ray_distill.export.diffusers import ADAPTER, export_student
from ray_distill.export.verify import verify
from ray_distill.methods import DMD
from ray_distill.models import family
from ray_distill.models.codec import load_codec
from ray_distill.models.conditions import collate, from_bytes, to_bytes, unconditional
from ray_distill.models.exits import check_exits
from ray_distill.models.hunyuan15.network import HunyuanDenoiser
from ray_distill.models.loading import load_transformer
from ray_distill.models.lora import LoRA, add_lora, plain
from ray_distill.models.parts import check_text, check_vae
from ray_distill.models.pipeline import Pipeline
from ray_distill.plan.passes import Workload, count
from ray_distill.rng import StatelessRng
from ray_distill.train.driver.check import check
from ray_distill.types import Batch, Sampler
from tests.adapters import merge
from tests.tiny_wan import tiny_wan
from tests.unit.toys import run_config

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import tiny_hunyuan15

PROMPTS = ['a sign "open" hangs', "", "much more than it takes of words"]
FRAMES, HEIGHT, WIDTH, TOKENS = 9, 64, 64, 24
LATENT = (8, 3, 4, 4)
TIMES = (1000.0, 908.0, 724.0)
SIZE = {"height": HEIGHT, "width": WIDTH, "frames": FRAMES, "fps": 24.0, "max_sequence_length": TOKENS}
IDLE = ("attn.to_add_out", "ff_context.net.0.proj", "ff_context.net.2")  # of the last block: its text goes nowhere


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_hunyuan15")
    tiny_hunyuan15.main([str(folder)])
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    pipe = HunyuanVideo15Pipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.tokenizer_max_length = TOKENS
    return pipe


@pytest.fixture(scope="module")
def rows(folder):
    return family("hunyuan15").text(folder, TOKENS, "float32").encode(PROMPTS)


@pytest.fixture(scope="module")
def conds(folder, rows):
    fields = Pipeline("hunyuan15", folder).fields(TOKENS)
    cond = collate(rows[:1], fields, LATENT)
    return cond, unconditional(rows[1], cond, fields)


@pytest.fixture(scope="module")
def network(folder):
    return load_transformer("hunyuan15", folder)


def test_prompts_are_what_the_pipeline_makes_of_them(pipe, rows, folder):
    """Tokens alone; what the pipeline has behind them is masked."""
    text, mask, glyphs, glyphs_mask = pipe.encode_prompt(PROMPTS, dtype=torch.float32, batch_size=3)
    for i, row in enumerate(rows):
        torch.testing.assert_close(row["text"], text[i, : int(mask[i].sum())], rtol=0, atol=1e-5)
        torch.testing.assert_close(row["glyphs"], glyphs[i, : int(glyphs_mask[i].sum())], rtol=0, atol=1e-5)
    assert [len(row["glyphs"]) for row in rows] == [len(b'Text "open". ') + 1, 0, 0]
    assert [len(row["text"]) for row in rows] == [20, 2, TOKENS]  # an empty prompt is a blank, and its end
    counts = family("hunyuan15").text(folder, TOKENS, "float32").tokens(PROMPTS)
    assert counts == [len(PROMPTS[0]) + 1, 2, len(PROMPTS[2]) + 1]
    with pytest.raises(ValueError, match="text_encoder_precision = int8"):
        family("hunyuan15").text(folder, TOKENS, "int8")


def test_a_caption_without_quotes_is_stored(folder, rows):
    fields = Pipeline("hunyuan15", folder).fields(TOKENS)
    stored = {name: to_bytes(name, rows[1][name], field) for name, field in fields.items()}
    assert stored["glyphs"] == b""
    again = from_bytes(stored, fields, LATENT)
    assert again["glyphs"].shape == (0, tiny_hunyuan15.GLYPHS) and again["text"].shape == rows[1]["text"].shape
    assert not collate([again], fields, LATENT)["glyphs_mask"].any()


@pytest.mark.parametrize(("kind", "scale"), [("ode", 3.0), ("sde", 1.0)])
def test_the_pipelines_own_call(pipe, network, conds, kind, scale):
    """Sampler, levels, guidance, both texts with their masks, the absent image, and the order of all draws."""
    pipe.scheduler = {"ode": FlowMatchEulerDiscreteScheduler, "sde": FlowMatchLCMScheduler}[kind](shift=1.0)
    pipe.guider = ClassifierFreeGuidance(guidance_scale=scale)
    torch.manual_seed(1)
    theirs = pipe(
        PROMPTS[0],
        height=HEIGHT,
        width=WIDTH,
        num_frames=FRAMES,
        sigmas=[t / 1000 for t in TIMES],
        num_inference_steps=len(TIMES),
        output_type="latent",
    ).frames
    torch.manual_seed(1)
    of, shape = family("hunyuan15"), (1, *LATENT)
    ours = sample(
        HunyuanDenoiser(network), Sampler(TIMES, kind, scale), of.start(shape), *conds, noise=lambda _: of.noise(shape)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_one_call_of_the_network(network, conds, rows, folder, monkeypatch):
    """With the pipeline's 729 tokens of an absent image, and texts cut to their tokens; and as `plan` counts it."""
    x_t, sigma, cond = torch.randn(1, *LATENT), torch.tensor([0.7]), conds[0]
    fields = Pipeline("hunyuan15", folder).fields(TOKENS)
    with torch.no_grad():
        theirs = network(
            torch.cat([x_t, torch.zeros(1, 9, *LATENT[1:])], 1),
            1000 * sigma,
            rows[0]["text"][None],
            torch.ones(1, len(rows[0]["text"])),
            encoder_hidden_states_2=cond["glyphs"],
            encoder_attention_mask_2=cond["glyphs_mask"].float(),
            image_embeds=torch.zeros(1, 729, 32),
            return_dict=False,
        )[0]
        ours = HunyuanDenoiser(network)(x_t, sigma, cond).velocity
        pair = collate(rows[:2], fields, LATENT)
        both = HunyuanDenoiser(network)(x_t.expand(2, -1, -1, -1, -1), sigma.expand(2), pair).velocity
        other = HunyuanDenoiser(network)(x_t, sigma, conds[1]).velocity
        monkeypatch.setattr(f"{HunyuanDenoiser.__module__}.is_fake", lambda _: True)
        counted = HunyuanDenoiser(network)(x_t, sigma, cond).velocity
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(counted, ours, rtol=0, atol=1e-5)
    torch.testing.assert_close(both, torch.cat([ours, other]), rtol=0, atol=1e-5)
    assert (ours - other).abs().max() > 1e-4
    rough = HunyuanDenoiser(tiny_hunyuan15.make_transformer(1).bfloat16(), torch.bfloat16)
    assert rough(x_t, sigma, cond).velocity.dtype == torch.float32


FAULTS = {
    "the prompt's mask is dropped": lambda cond, _: cond | {"text_mask": torch.ones_like(cond["text_mask"])},
    "its quoted words' mask is dropped": lambda cond, _: cond | {"glyphs_mask": torch.ones_like(cond["glyphs_mask"])},
    "its quoted words are left out": lambda cond, _: cond | {"glyphs_mask": torch.zeros_like(cond["glyphs_mask"])},
    "the second encoder reads the prompt": lambda cond, whole: cond | whole,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(pipe, network, conds, fault):
    """Each condition is of consequence: 100 times what is allowed beside the pipeline's own call."""
    quoted = f'"{PROMPTS[0]}"'.replace('"open"', "open")
    states, mask = pipe._get_byt5_prompt_embeds(pipe.tokenizer_2, pipe.text_encoder_2, quoted, torch.device("cpu"))
    x_t, whole = torch.randn(1, *LATENT), {"glyphs": states, "glyphs_mask": mask.bool()}
    with torch.no_grad():
        right, wrong = (
            HunyuanDenoiser(network)(x_t, torch.tensor([0.7]), cond).velocity
            for cond in (conds[0], FAULTS[fault](conds[0], whole))
        )
    assert (right - wrong).abs().max() > 1e-3


def test_its_vae(folder):
    codec = load_codec(folder / "vae")
    assert codec.stride == Pipeline("hunyuan15", folder).codec.stride == (4, 16, 16) and codec.channels == 8
    pixels = torch.rand(1, 3, 5, 32, 48) * 2 - 1
    z = codec.encode(pixels)
    assert z.shape == (1, *codec.latent_shape(5, 32, 48)) == (1, 8, 2, 2, 3)
    torch.testing.assert_close(z, codec.vae.encode(pixels).latent_dist.mode() * 1.03682)
    assert codec.decode(z).shape == pixels.shape
    pair, z_2 = torch.cat([pixels, -pixels]), torch.cat([z, codec.encode(-pixels)])
    torch.testing.assert_close(codec.encode(pair), z_2)  # diffusers' VAE alone takes one clip at a time
    torch.testing.assert_close(codec.decode(z_2)[:1], codec.decode(z))
    with pytest.raises(ValueError, match="frames=8: HunyuanVideo 1.5's VAE takes 4k\\+1 frames; use 5 or 9"):
        codec.latent_shape(8, 32, 48)
    with pytest.raises(ValueError, match="takes multiples of 16"):
        codec.latent_shape(9, 32, 40)


def test_what_it_cannot_do_is_named(network, conds):
    x_t = torch.zeros(1, *LATENT)
    for asked in ({"chunks": (1, 2)}, {"features": (0,)}):
        with pytest.raises(ValueError, match="model.family = 'hunyuan15': no causal calls and no features"):
            HunyuanDenoiser(network)(x_t, torch.tensor([0.5]), conds[0], **asked)
    with pytest.raises(ValueError, match="all frames have one level"):
        HunyuanDenoiser(network)(x_t, torch.full((1, 3), 0.5), conds[0])
    with pytest.raises(ValueError, match="no features are taken"):
        family("hunyuan15").features({})
    with pytest.raises(ValueError, match="never published"):
        family("hunyuan15").patch({"patch_size": 2})
    with pytest.raises(ValueError, match="use_meanflow takes two timesteps"):
        family("hunyuan15").patch({"use_meanflow": True})


def test_exits_are_refused_where_the_time_is_embedded_twice(network):
    with pytest.raises(
        ValueError, match="exit_embedding = true: a HunyuanVideo15Transformer3DModel embeds its time in"
    ):
        check_exits(network, "method.exit_embedding = true")
    check_exits(tiny_wan(0), "method.exit_embedding = true")


def test_a_dmd_step_moves_its_own_role(conds):
    networks = {}
    for seed, role in enumerate(("student", "fake_score", "teacher")):
        torch.manual_seed(seed)
        networks[role] = tiny_hunyuan15.make_transformer(1)
    denoisers = {role: HunyuanDenoiser(network) for role, network in networks.items()}
    given = Batch(torch.arange(1), LATENT, *conds)
    for update in DMD(student_interval=1).updates(0):
        for role, each in networks.items():
            each.requires_grad_(role == update.role)
        terms = update.loss(denoisers, given, StatelessRng(0), {})
        terms.loss.backward()
        assert torch.isfinite(terms.loss)
        assert torch.equal(terms.loss, update.loss(denoisers, given, StatelessRng(0), {}).loss)
        for role, each in networks.items():
            without = {name for name, p in each.named_parameters() if p.grad is None}
            if role == update.role:
                assert {name.rpartition(".")[0] for name in without} == {
                    f"transformer_blocks.0.{part}" for part in IDLE
                }
            else:
                assert len(without) == len(list(each.parameters()))
            assert all(p.grad is None or torch.isfinite(p.grad).all() for p in each.parameters())
            each.zero_grad(set_to_none=True)


def test_diffusers_alone_samples_an_export(folder, network, conds, tmp_path):
    kind, sampler = "ode", Sampler(TIMES, "ode", 2.0)
    out = export_student(tmp_path / "out", network, folder, sampler, LATENT, card={}, **SIZE)
    recipe = json.loads((out / "recipe.json").read_text())
    scheduler = {"ode": FlowMatchEulerDiscreteScheduler, "sde": FlowMatchLCMScheduler}[kind]
    assert recipe["scheduler"] == scheduler.__name__
    parts = {"transformer": HunyuanVideo15Transformer3DModel.from_pretrained(out / "transformer")}
    parts |= {"scheduler": scheduler.from_pretrained(out / "scheduler")}
    parts |= {"guider": ClassifierFreeGuidance(guidance_scale=recipe["guidance_scale"])}
    pipe = HunyuanVideo15Pipeline.from_pretrained(folder, **parts)
    pipe.tokenizer_max_length = recipe["max_sequence_length"]
    call = {key: recipe[key] for key in ("height", "width")} | {"num_frames": recipe["frames"]}
    call |= {"sigmas": [t / 1000 for t in recipe["timesteps"]], "num_inference_steps": len(recipe["timesteps"])}
    torch.manual_seed(3)
    theirs = pipe(PROMPTS[0], output_type="latent", **call)[0]
    torch.manual_seed(3)
    of, shape = family("hunyuan15"), (1, *LATENT)
    x_T = of.start(shape)
    ours = sample(HunyuanDenoiser(network), sampler, x_T, *conds, noise=lambda _: of.noise(shape))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "scale"), [("sde", 1.0), ("ode", 2.0)])
def test_a_trained_student_is_sampled_by_its_script_as_by_our_sampler(folder, conds, tmp_path, kind, scale):
    """In a process of its own, from the prompt: 4 steps of DMD move the student before."""
    networks = {role: load_transformer("hunyuan15", folder) for role in ("student", "fake_score", "teacher")}
    denoisers = {role: HunyuanDenoiser(network) for role, network in networks.items()}
    optimizers = {role: torch.optim.AdamW(networks[role].parameters(), 1e-3) for role in ("student", "fake_score")}
    start = networks["student"].proj_out.weight.detach().clone()
    for step in range(4):
        batch = Batch(torch.arange(step, step + 1), LATENT, *conds)
        for update in DMD(TIMES, student_interval=2).updates(step):
            for role, network in networks.items():
                network.requires_grad_(role == update.role)
            update.loss(denoisers, batch, StatelessRng(0, step), {}).loss.backward()
            optimizers[update.role].step()
            optimizers[update.role].zero_grad()
    student = networks["student"].requires_grad_(False)
    assert (student.proj_out.weight - start).abs().max() > 1e-3
    out = export_student(tmp_path / "out", student, folder, Sampler(TIMES, kind, scale), LATENT, card={}, **SIZE)
    assert verify(out, PROMPTS[0]) < 1e-4


def test_an_adapter_loads_by_the_transformers_own_loader(folder, conds, tmp_path):
    """Its pipeline has none."""
    assert not hasattr(HunyuanVideo15Pipeline, "load_lora_weights")
    x_t, lora = torch.randn(1, *LATENT), LoRA(rank=2, targets=family("hunyuan15").targets)
    adapted = load_transformer("hunyuan15", folder)
    add_lora(adapted, lora, seed=0)
    names = {plain(n): p.shape for n, p in adapted.named_parameters() if p.requires_grad}
    assert any("add_q_proj" in name for name in names) and any("token_refiner" in name for name in names)
    drawn = torch.Generator().manual_seed(0)
    adapter = {name: 0.3 * torch.randn(shape, generator=drawn) for name, shape in names.items()}
    whole = load_transformer("hunyuan15", folder)
    merge(whole, lora, adapter)
    sampler = Sampler(TIMES, "sde")
    out = export_student(tmp_path / "out", whole, folder, sampler, LATENT, card={}, adapter=(lora, adapter), **SIZE)
    assert "pipe.transformer.load_lora_adapter" in (out / "README.md").read_text()
    pipe = HunyuanVideo15Pipeline.from_pretrained(folder)
    pipe.transformer.load_lora_adapter(out, weight_name=ADAPTER)
    with torch.no_grad():
        base, ours, theirs = (
            HunyuanDenoiser(one)(x_t, torch.tensor([0.6]), conds[0]).velocity
            for one in (load_transformer("hunyuan15", folder), whole, pipe.transformer)
        )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert (ours - base).abs().max() > 1e-3


def test_a_folder_that_is_not_whole_is_refused(folder, tmp_path):
    of = family("hunyuan15")
    assert check_text(folder, "hunyuan15", "model.path")[0] == tiny_hunyuan15.WIDTH
    assert check_vae(folder, "model.path").channels == 8
    of.check(Pipeline("hunyuan15", folder), TOKENS)
    copy = copytree(folder, tmp_path / "copy")
    config = copy / "transformer/config.json"
    config.write_text(config.read_text().replace('"text_embed_2_dim": 12', '"text_embed_2_dim": 16'))
    with pytest.raises(ValueError, match="text_encoder_2 gives 12 numbers a token, and the transformer takes 16"):
        of.check(Pipeline("hunyuan15", copy), TOKENS)
    (copy / "text_encoder_2/model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"text_encoder_2: no model\.safetensors"):
        of.check(Pipeline("hunyuan15", copy), TOKENS)


def checked(folder, tmp_path, **dotted):
    """`check` of a run on the tiny pipeline, from prompts."""
    (tmp_path / "p.txt").write_text('a "red" ball\n')
    asked = {"model": {"family": "hunyuan15", "path": str(folder), "max_sequence_length": TOKENS}}
    asked |= {"data__manifest": None, "data__datasets": [{"prompts": str(tmp_path / "p.txt")}]}
    asked |= {"data__frames": FRAMES, "data__height": HEIGHT, "data__width": WIDTH, "track__uri": ""}
    check(run_config(tmp_path, **(asked | dotted)))


ALONE = {"student": {"optimizer": {"learning_rate": 1e-4}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__frames": 8}, r"frames=8: HunyuanVideo 1.5's VAE takes 4k\+1 frames"),
        ({"data__height": 40}, "data.height = 40: the model takes multiples of 16; use 32 or 48"),
        (
            {"model__from_image": True},
            "model.from_image = true: .* is a HunyuanVideo15Pipeline, which begins from text",
        ),
        ({"model__export_formats": ["comfyui_lora"], "roles__student__lora": {"rank": 2}}, "export_formats"),
        (
            {"train__sequence_parallel": 4, "train__workers": 4},
            "student has 2 attention heads .* one of 1, 2,",
        ),
        ({"method__exit_embedding": True}, "method.exit_embedding = true: .* embeds its time in several places"),
        (
            {"model__attention": "_native_flash"},
            "model.attention = '_native_flash': the network takes a mask of its text",
        ),
        ({"method": {"name": "self_forcing"}}, "HunyuanVideo15Pipeline samples neither chunks nor two experts"),
        ({"method": {"name": "dmd_gan"}, "roles__discriminator__optimizer": {"learning_rate": 1e-4}}, "no features"),
        ({"method": {"name": "dcm", "mode": "semantic"}, "roles": ALONE}, "learns from videos"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(folder, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        checked(folder, tmp_path, **changes)


def test_a_run_that_fits_is_ready(folder, tmp_path):
    checked(folder, tmp_path)
    lora = {"roles__student__lora": {"rank": 2}, "roles__fake_score__lora": {"rank": 2}}
    checked(folder, tmp_path, model__shared_base=True, **lora)


def test_the_index_says_whether_a_folder_begins_from_text(folder, tmp_path):
    """Published networks from text have task_type "i2v", too."""
    copy = copytree(folder, tmp_path / "copy")
    config = copy / "transformer/config.json"
    config.write_text(config.read_text().replace('"task_type": "t2v"', '"task_type": "i2v"'))
    assert Pipeline("hunyuan15", copy).transformer["task_type"] == "i2v"
    assert list(Pipeline("hunyuan15", copy).fields(TOKENS)) == ["text", "glyphs"]
    (copy / "model_index.json").unlink()
    assert list(Pipeline("hunyuan15", copy).fields(TOKENS)) == ["text", "glyphs"]
    assert list(Pipeline("hunyuan15", copy, from_image=True).fields(TOKENS)) == ["text", "glyphs", "first", "image"]


def test_plan_counts_it(folder):
    fields = tuple(Pipeline("hunyuan15", folder).fields(TOKENS).items())
    config = json.dumps(dict(tiny_hunyuan15.make_transformer(1).config))
    one = count(Workload("hunyuan15", config, "float32", False, 1, LATENT, fields, grad=True))
    assert one.saved > 0 and one.backward_flops > one.flops > 0


def test_the_published_size():
    pipeline = Pipeline("hunyuan15", Path("absent/HunyuanVideo-1.5-Diffusers-480p_t2v"))
    with torch.device("meta"):
        network = HunyuanVideo15Transformer3DModel.from_config(dict(pipeline.architecture))
    assert sum(p.numel() for p in network.parameters()) == 8_326_608_160
    assert pipeline.latent_shape(121, 480, 848) == (32, 31, 30, 53)
