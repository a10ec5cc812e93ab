"""CogVideoX, trained with v-prediction on a variance-preserving schedule: the change of variables is the adapter's."""

import json
import sys
from pathlib import Path
from shutil import copytree

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline, CogVideoXTransformer3DModel
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

from ray_distill.diffusion.samplers import sample
from ray_distill.export.diffusers import ADAPTER, export_student
from ray_distill.methods import DMD
from ray_distill.models import family
from ray_distill.models.codec import load_codec
from ray_distill.models.cogvideox.network import CogVideoXDenoiser, region
from ray_distill.models.cogvideox.sample import FewSteps
from ray_distill.models.cogvideox.schedule import levels, training_timestep
from ray_distill.models.conditions import collate, unconditional
from ray_distill.models.loading import check_blocks, empty_transformer, load_transformer
from ray_distill.models.lora import LoRA, add_lora, plain
from ray_distill.models.parts import check_others, check_text, check_vae
from ray_distill.models.pipeline import Pipeline
from ray_distill.plan.passes import Workload, count
from ray_distill.rng import StatelessRng
from ray_distill.types import Batch, Sampler
from tests.adapters import merge
from tests.tiny_wan import tiny_wan
from tests.unit.toys import Gaussian, column

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import tiny_cogvideox

SCALES = {"5b": 1.0, "2b": 3.0}
PROMPTS = ["a red ball", "", "much more than it takes"]
FRAMES, HEIGHT, WIDTH, TOKENS = 9, 64, 96, tiny_cogvideox.TOKENS
LATENT = (4, 3, 8, 12)
TIMES = (1000.0, 757.0, 522.0)
SIZE = {"height": HEIGHT, "width": WIDTH, "frames": FRAMES, "fps": 8.0, "max_sequence_length": TOKENS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folders = {kind: tmp_path_factory.mktemp(f"tiny_cogvideox_{kind}") for kind in SCALES}
    for kind, folder in folders.items():
        tiny_cogvideox.main([str(folder), "--kind", kind])
    return folders


@pytest.fixture(scope="module")
def pipes(folders):
    pipes = {kind: CogVideoXPipeline.from_pretrained(folder) for kind, folder in folders.items()}
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
    return pipes


@pytest.fixture(scope="module")
def rows(folders):
    """Of a prompt, of the empty one, and of one that is too long."""
    return family("cogvideox").text(folders["5b"], TOKENS, "float32").encode(PROMPTS)


@pytest.fixture(scope="module")
def conds(folders, rows):
    fields = Pipeline("cogvideox", folders["5b"]).fields(TOKENS)
    cond = collate(rows[:1], fields, LATENT)
    return cond, unconditional(rows[1], cond, fields)


@pytest.mark.parametrize(
    ("kind", "published"),
    [("5b", (0.0283, 0.4219, 0.6396, 0.8445, 0.9996, 1)), ("2b", (0.0481, 0.5562, 0.7549, 0.9052, 0.9998, 1))],
)
def test_the_levels_are_those_of_diffusers_scheduler(kind, published):
    alpha = tiny_cogvideox.make_scheduler(kind).alphas_cumprod.double()
    a, b = alpha.sqrt(), (1 - alpha).sqrt()
    ours = torch.tensor(levels(SCALES[kind]), dtype=torch.float64)
    torch.testing.assert_close(ours, b / (a + b), rtol=0, atol=1e-12)
    assert [round(float(ours[t]), 4) for t in (0, 250, 500, 750, 998, 999)] == list(published)
    steps = torch.arange(1000.0)
    torch.testing.assert_close(training_timestep(ours, SCALES[kind]), steps, rtol=0, atol=1e-3)
    between = training_timestep((ours[400:401] + ours[401:402]) / 2, SCALES[kind])
    assert between.item() == pytest.approx(400.5, abs=1e-4)
    assert training_timestep(torch.tensor([1e-3, 1.0]), SCALES[kind]).tolist() == [0.0, 999.0]


class ExactV:
    """A network that predicts E[v | z] of elementwise N(mean, std^2) data on the variance-preserving schedule."""

    def __init__(self, mean, std):
        self.config = {"use_rotary_positional_embeddings": False}
        self.mean, self.variance = mean, std**2

    def __call__(self, hidden_states, timestep, **_):
        sigma = torch.tensor(levels(3.0), dtype=hidden_states.dtype)[timestep.round().long()]
        a, b = (column(x / torch.hypot(sigma, 1 - sigma)) for x in (1 - sigma, sigma))
        gain = 1 / (a**2 * self.variance + b**2)
        seen = hidden_states - a * self.mean
        x_0, eps = self.mean + a * self.variance * gain * seen, b * gain * seen
        return (a * eps - b * x_0,)


def test_v_of_the_variance_preserving_schedule_is_the_velocity_of_the_straight_line():
    """Closed form: of Gaussian data both predictions are known exactly (oracle 1)."""
    sigma = torch.tensor([levels(3.0)[t] for t in (0, 100, 500, 900, 999)], dtype=torch.float64)
    x_t = torch.randn(5, 4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cond = {"text": torch.zeros(5, 1, 1)}
    denoise = CogVideoXDenoiser(ExactV(2.0, 0.5), torch.float64)
    exact = Gaussian(2.0, 0.5)(x_t, sigma, cond).velocity
    torch.testing.assert_close(denoise(x_t, sigma, cond).velocity, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("size", [LATENT, (4, 3, 8, 8), (4, 5, 4, 16)])
def test_one_call_of_the_network(pipes, folders, conds, kind, size):
    """The pipeline's own positions and timestep, z and v; also for clips of another shape than the training's."""
    pipe, step = pipes[kind], 749
    alpha = pipe.scheduler.alphas_cumprod[step]
    a, b = alpha.sqrt().float(), (1 - alpha).sqrt().float()
    x_t = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    z = (a + b) * x_t
    rotary = pipe._prepare_rotary_positional_embeddings(8 * size[2], 8 * size[3], size[1], torch.device("cpu"))
    with torch.no_grad():
        v = pipe.transformer(
            z.transpose(1, 2),
            conds[0]["text"],
            torch.tensor([step]),
            image_rotary_emb=rotary if kind == "5b" else None,
            return_dict=False,
        )[0].transpose(1, 2)
        ours = CogVideoXDenoiser(load_transformer("cogvideox", folders[kind]))(
            x_t, (b / (a + b)).reshape(1), conds[0]
        ).velocity
    eps, x_0 = b * z + a * v, a * z - b * v
    torch.testing.assert_close(ours, eps - x_0, rtol=0, atol=1e-5)


def test_positions_of_other_shapes_are_the_pipelines():
    for grid in ((30, 45), (16, 45), (30, 20), (45, 45), (1, 1), (5, 40)):
        assert region(grid, (30, 45)) == get_resize_crop_region_for_grid(grid, 45, 30)


@pytest.mark.parametrize(("kind", "scale"), [("5b", 1.0), ("5b", 3.0), ("2b", 1.0)])
def test_the_pipelines_own_call(pipes, folders, kind, scale):
    """DDIM of the published scheduler is Euler on the straight line; levels, guidance, text and the first noise."""
    torch.manual_seed(1)
    size = {"height": HEIGHT, "width": WIDTH, "num_frames": FRAMES, "max_sequence_length": TOKENS}
    theirs = pipes[kind](
        "a red ball", num_inference_steps=4, guidance_scale=scale, output_type="latent", **size
    ).frames.transpose(1, 2)
    steps = pipes[kind].scheduler.timesteps.tolist()
    assert steps == [999, 749, 499, 249]
    times = tuple(1000 * levels(SCALES[kind])[step] for step in steps)
    fields = Pipeline("cogvideox", folders[kind]).fields(TOKENS)
    texts = family("cogvideox").text(folders[kind], TOKENS, "float32").encode(PROMPTS[:2])
    cond = collate(texts[:1], fields, LATENT)
    torch.manual_seed(1)
    ours = sample(
        CogVideoXDenoiser(load_transformer("cogvideox", folders[kind])),
        Sampler(times, "ode", scale),
        family("cogvideox").start((1, *LATENT)),
        cond,
        unconditional(texts[1], cond, fields),
        noise=lambda _: torch.zeros(()),
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_prompts_are_what_the_pipeline_makes_of_them(pipes, rows):
    """Padding is part of the condition: its states are not zero, and the network attends to them."""
    states, _ = pipes["5b"].encode_prompt(PROMPTS, None, False, max_sequence_length=TOKENS)
    for row, theirs in zip(rows, states, strict=True):
        torch.testing.assert_close(row["text"], theirs, rtol=0, atol=1e-5)
    assert rows[1]["text"][1:].abs().min(1).values.max() > 0
    x_t, network = torch.randn(1, *LATENT), CogVideoXDenoiser(pipes["5b"].transformer)
    with torch.no_grad():
        full, cut = (
            network(x_t, torch.tensor([0.6]), {"text": text[None]}).velocity
            for text in (rows[0]["text"], torch.cat([rows[0]["text"][:11], torch.zeros(5, tiny_cogvideox.WIDTH)]))
        )
    assert (full - cut).abs().max() > 1e-4


def test_its_vae(folders):
    codec = load_codec(folders["5b"] / "vae")
    assert codec.stride == Pipeline("cogvideox", folders["5b"]).codec.stride == (4, 8, 8) and codec.channels == 4
    pixels = torch.rand(1, 3, FRAMES, 32, 48) * 2 - 1
    z = codec.encode(pixels)
    assert z.shape == (1, *codec.latent_shape(FRAMES, 32, 48)) == (1, 4, 3, 4, 6)
    torch.testing.assert_close(z, codec.vae.encode(pixels).latent_dist.mode() * 0.7)
    assert codec.decode(z).shape == pixels.shape
    assert codec.latent_shape(49, 480, 720) == (4, 13, 60, 90)
    with pytest.raises(ValueError, match="frames=13: CogVideoX's VAE takes 8k\\+1 frames; use 9 or 17"):
        codec.latent_shape(13, 32, 48)
    with pytest.raises(ValueError, match="takes multiples of 8"):
        codec.latent_shape(9, 32, 44)
    # What would come of such a clip: four latent frames, and three frames too many.
    raw: AutoencoderKLCogVideoX = codec.vae
    four = raw.encode(torch.zeros(1, 3, 13, 16, 16)).latent_dist.mode()
    assert four.shape[2] == 4 and raw.decode(four).sample.shape[2] == 16


def test_what_it_cannot_do_is_named(conds):
    denoise, x_t = CogVideoXDenoiser(tiny_cogvideox.make_transformer()), torch.zeros(1, *LATENT)
    for asked in ({"chunks": (1, 2)}, {"features": (0,)}):
        with pytest.raises(ValueError, match="model.family = 'cogvideox': no causal calls and no features"):
            denoise(x_t, torch.tensor([0.5]), conds[0], **asked)
    with pytest.raises(ValueError, match="model.family = 'cogvideox': all frames have one level"):
        denoise(x_t, torch.full((1, 3), 0.5), conds[0])
    with pytest.raises(ValueError, match="no features are taken"):
        family("cogvideox").features({})
    with pytest.raises(ValueError, match="patch_size_t = 2 is CogVideoX 1.5's"):
        family("cogvideox").patch({"patch_size_t": 2})
    with pytest.raises(ValueError, match="begins from an image"):
        family("cogvideox").patch({"use_learned_positional_embeddings": True})


def test_a_dmd_step_moves_its_own_role_and_every_parameter_of_it(conds):
    networks = {}
    for seed, role in enumerate(("student", "fake_score", "teacher")):
        torch.manual_seed(seed)
        networks[role] = tiny_cogvideox.make_transformer(layers=1)
    denoisers = {role: CogVideoXDenoiser(network) for role, network in networks.items()}
    given = Batch(torch.arange(1), LATENT, *conds)
    for update in DMD(student_interval=1).updates(0):
        for role, network in networks.items():
            network.requires_grad_(role == update.role)
        terms = update.loss(denoisers, given, StatelessRng(0), {})
        terms.loss.backward()
        assert torch.isfinite(terms.loss)
        assert torch.equal(terms.loss, update.loss(denoisers, given, StatelessRng(0), {}).loss)
        for role, network in networks.items():
            gradients = [p.grad is not None for p in network.parameters()]
            assert all(gradients) if role == update.role else not any(gradients)
            network.zero_grad(set_to_none=True)


@pytest.mark.parametrize(("pipeline", "kind", "scale"), [("5b", "sde", 1.0), ("5b", "ode", 2.0), ("2b", "sde", 1.0)])
def test_diffusers_alone_samples_an_export(folders, tmp_path, pipeline, kind, scale):
    """By the scheduler of sample.py, which imports nothing of ours."""
    sampler, base = Sampler(TIMES, kind, scale), folders[pipeline]
    network = load_transformer("cogvideox", base)
    out = export_student(tmp_path / "out", network, base, sampler, LATENT, card={}, **SIZE)
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["scheduler"] == "CogVideoXDDIMScheduler" and recipe["kind"] == kind
    steps = FewSteps.from_pretrained(out / "scheduler").follow(recipe["timesteps"], recipe["kind"])
    student = CogVideoXTransformer3DModel.from_pretrained(out / "transformer")
    pipe = CogVideoXPipeline.from_pretrained(base, transformer=student, scheduler=steps)
    torch.manual_seed(3)
    call = {key: recipe[key] for key in ("height", "width", "guidance_scale", "max_sequence_length")}
    call |= {"num_frames": recipe["frames"], "num_inference_steps": 3, "output_type": "latent"}
    theirs = pipe("a red ball", **call)[0].transpose(1, 2)
    fields, of = Pipeline("cogvideox", base).fields(TOKENS), family("cogvideox")
    texts = of.text(base, TOKENS, "float32").encode(PROMPTS[:2])
    cond = collate(texts[:1], fields, LATENT)
    torch.manual_seed(3)
    x_T = of.start((1, *LATENT))
    uncond = unconditional(texts[1], cond, fields)
    ours = sample(CogVideoXDenoiser(network), sampler, x_T, cond, uncond, noise=lambda _: of.noise((1, *LATENT)))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_an_adapter_loads_by_the_pipelines_own_loader(folders, conds, tmp_path):
    folder, x_t = folders["5b"], torch.randn(1, *LATENT)
    lora = LoRA(rank=2, targets=family("cogvideox").targets)
    network = load_transformer("cogvideox", folder)
    add_lora(network, lora, seed=0)
    names = {plain(n): p.shape for n, p in network.named_parameters() if p.requires_grad}
    assert len(names) == 2 * 4 * 2  # A and B of 4 layers of 2 blocks
    drawn = torch.Generator().manual_seed(0)
    adapter = {name: 0.3 * torch.randn(shape, generator=drawn) for name, shape in names.items()}
    whole = load_transformer("cogvideox", folder)
    merge(whole, lora, adapter)
    sampler = Sampler(TIMES, "sde")
    out = export_student(tmp_path / "out", whole, folder, sampler, LATENT, card={}, adapter=(lora, adapter), **SIZE)
    pipe = CogVideoXPipeline.from_pretrained(folder)
    pipe.load_lora_weights(out, weight_name=ADAPTER)
    with torch.no_grad():
        base, ours, theirs = (
            CogVideoXDenoiser(one)(x_t, torch.tensor([0.6]), conds[0]).velocity
            for one in (load_transformer("cogvideox", folder), whole, pipe.transformer)
        )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert (ours - base).abs().max() > 1e-3


def edited(folder, tmp_path, file, **changes):
    copy = copytree(folder, tmp_path / str(len(list(tmp_path.iterdir()))))
    (copy / file).write_text(json.dumps(json.loads((copy / file).read_text()) | changes))
    return Pipeline("cogvideox", copy)


def test_a_folder_that_would_train_something_else_is_refused(folders, tmp_path):
    folder, of = folders["5b"], family("cogvideox")
    assert check_text(folder, "cogvideox", "model.path")[0] == tiny_cogvideox.WIDTH
    assert check_vae(folder, "model.path").channels == 4
    check_others(folder, "cogvideox", "model.path")
    of.check(Pipeline("cogvideox", folder), TOKENS)
    of.check(Pipeline("cogvideox", folders["2b"]), TOKENS)
    with pytest.raises(ValueError, match="max_sequence_length = 512: .* trained with 16 tokens; use 16"):
        of.check(Pipeline("cogvideox", folder), 512)
    scheduler = "scheduler/scheduler_config.json"
    for changes in ({"prediction_type": "epsilon"}, {"snr_shift_scale": 3.0}, {"rescale_betas_zero_snr": False}):
        ((key, value),) = changes.items()
        with pytest.raises(ValueError, match=f"its scheduler has {key} = {value}"):
            of.check(edited(folder, tmp_path, scheduler, **changes), TOKENS)
    with pytest.raises(ValueError, match="its scheduler is a DDIMScheduler"):
        of.check(edited(folder, tmp_path, scheduler, _class_name="DDIMScheduler"), TOKENS)
    with pytest.raises(ValueError, match=r"patch_size_t = 2 is CogVideoX 1\.5's"):
        of.check(edited(folder, tmp_path, "transformer/config.json", patch_size_t=2), TOKENS)


def test_what_diffusers_would_leave_out_in_silence_is_refused(folders):
    """It compiles named blocks alone, and sets a backend on processors that read one; CogVideoX has neither."""
    network = empty_transformer("cogvideox", folders["5b"])
    check_blocks(network, "native", False, "roles.student")
    with pytest.raises(ValueError, match="roles.student.compile = true: diffusers compiles no blocks of a CogVideoX"):
        check_blocks(network, "native", True, "roles.student")
    with pytest.raises(ValueError, match="model.attention = 'flash': the attention of a CogVideoX.* reads no backend"):
        check_blocks(network, "flash", False, "roles.student")
    network.set_attention_backend("_native_math")
    network.set_attention_backend("native")  # diffusers keeps the last one for the whole process
    assert not any(hasattr(m.processor, "_attention_backend") for m in network.modules() if hasattr(m, "processor"))
    check_blocks(tiny_wan(0), "flash", True, "roles.student")


def test_plan_counts_it(folders):
    fields = tuple(Pipeline("cogvideox", folders["5b"]).fields(TOKENS).items())
    config = json.dumps(dict(tiny_cogvideox.make_transformer("5b", 1).config))
    one, more = (
        count(Workload("cogvideox", config, "float32", False, 1, (4, frames, 8, 12), fields, grad=True))
        for frames in (3, 5)
    )
    assert 0 < one.saved < more.saved and 0 < one.flops < more.flops


def test_the_published_sizes():
    for name, parameters in (("CogVideoX-2b", 1_693_783_872), ("CogVideoX-5b", 5_570_283_072)):
        pipeline = Pipeline("cogvideox", Path("models") / name)
        with torch.device("meta"):
            network = CogVideoXTransformer3DModel.from_config(dict(pipeline.architecture))
        assert sum(p.numel() for p in network.parameters()) == parameters
        assert pipeline.latent_shape(49, 480, 720) == (16, 13, 60, 90)
