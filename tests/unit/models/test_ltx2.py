"""LTX-2, picture and sound: the adapter against diffusers' own pipeline, and an export that it alone samples."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import av
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler, LTX2Pipeline

from ray_distill.config.sequence import check_heads
from ray_distill.data.encoders import Encoders
from ray_distill.data.feed.stream import Stream
from ray_distill.data.prepare.teach import PURPOSE
from ray_distill.data.read.track import Track
from ray_distill.diffusion.guidance import guided_x_0
from ray_distill.diffusion.samplers import sample
from ray_distill.errors import ConfigError
from ray_distill.export.diffusers import ADAPTER, export_student
from ray_distill.export.verify import verify
from ray_distill.methods import DMD
from ray_distill.models import family
from ray_distill.models.codec import load_codec
from ray_distill.models.conditions import collate, from_bytes, to_bytes, unconditional
from ray_distill.models.exits import check_exits
from ray_distill.models.loading import load_transformer
from ray_distill.models.lora import LoRA, add_lora, plain
from ray_distill.models.ltx2.network import LTX2Denoiser
from ray_distill.models.ltx2.sample import guidance, pack
from ray_distill.models.packed import layout, modalities, picture, sound, tensor_shape
from ray_distill.models.parts import check_others, check_text, check_vae
from ray_distill.models.pipeline import Pipeline
from ray_distill.plan.passes import Workload, count
from ray_distill.rng import StatelessRng
from ray_distill.train.driver.checks.clips import check_pairs, check_pictures, check_sound
from ray_distill.types import Batch, Sampler
from tests.adapters import merge
from tests.unit.data.test_cache import delivered
from tests.unit.data.test_index import make, source
from tests.unit.toys import run_config

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import tiny_ltx2

FRAMES, HEIGHT, WIDTH, TOKENS = 17, 64, 96, 16
LATENT = (32, 3, 2, 3, 18)
TIMES = (1000.0, 937.5, 625.0)
SIZE = {"height": HEIGHT, "width": WIDTH, "frames": FRAMES, "fps": 24.0, "max_sequence_length": TOKENS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_ltx2")
    tiny_ltx2.main([str(folder)])
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    pipe = LTX2Pipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def rows(folder):
    """Of a prompt, of the empty one, and of one that is too long."""
    return family("ltx2").text(folder, TOKENS, "float32").encode([" a red ball ", "", "much more than it takes"])


@pytest.fixture(scope="module")
def conds(folder, rows):
    fields = Pipeline("ltx2", folder).fields(TOKENS)
    cond = collate(rows[:1], fields, LATENT)
    return cond, unconditional(rows[1], cond, fields)


@pytest.fixture(scope="module")
def network(folder):
    return load_transformer("ltx2", folder)


def differences(ours, theirs):
    return {name: (ours - theirs)[:, :, where].abs().max().item() for name, where in modalities(LATENT).items()}


def test_prompts_are_what_the_pipeline_makes_of_them(pipe, rows):
    prompts = [" a red ball ", "", "much more than it takes"]
    states, mask, _, _ = pipe.encode_prompt(prompts, None, False, max_sequence_length=TOKENS)
    with torch.no_grad():
        video, audio, kept = pipe.connectors(states, mask, padding_side="left")
    assert kept.all()  # so that no mask is kept of them
    for number, row in enumerate(rows):
        torch.testing.assert_close(row["text"], video[number], atol=1e-5, rtol=0)
        torch.testing.assert_close(row["audio_text"], audio[number], atol=1e-5, rtol=0)
    assert not torch.equal(video[1], video[0])


def test_the_shape_of_a_clip_counts_its_sound(folder):
    codec = load_codec(folder / "vae")
    assert codec.latent_shape(FRAMES, HEIGHT, WIDTH) == LATENT and codec.channels == 32
    assert codec.latent_shape(121, 512, 768)[1:] == (16, 16, 24, 126)  # 121 frames are 5.04 s
    with pytest.raises(ValueError, match="frames=16: LTX-2's VAE takes 8k"):
        codec.latent_shape(16, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="takes multiples of 32"):
        codec.latent_shape(FRAMES, HEIGHT, 80)
    pixels = torch.rand(1, 3, FRAMES, HEIGHT, WIDTH) * 2 - 1
    z = codec.encode(pixels)
    assert z.shape == (1, *LATENT[:4]) and codec.decode(z).shape == pixels.shape
    raw = codec.vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(z, (raw - 0.3) / 2.0)


@pytest.mark.parametrize(
    ("kind", "scale", "audio"),
    [("ode", 1.0, None), ("ode", 3.0, None), ("ode", 3.0, 7.0), ("ode", 1.0, 4.0), ("sde", 1.0, None)],
)
def test_the_pipelines_own_call(pipe, network, conds, kind, scale, audio):
    """Sampler, packing, levels, guidance of each modality and the order of all draws."""
    scheduler = {"ode": FlowMatchEulerDiscreteScheduler, "sde": FlowMatchLCMScheduler}[kind](shift=1.0)
    own, pipe.scheduler = pipe.scheduler, scheduler
    torch.manual_seed(1)
    call = {"height": HEIGHT, "width": WIDTH, "num_frames": FRAMES, "frame_rate": 24.0, "output_type": "latent"}
    call |= {"sigmas": [t / 1000 for t in TIMES], "num_inference_steps": len(TIMES), "max_sequence_length": TOKENS}
    theirs = pack(pipe, *pipe(" a red ball ", **call, **guidance(scale, audio), return_dict=False))
    pipe.scheduler = own
    torch.manual_seed(1)
    of, shape = family("ltx2"), (1, *LATENT)
    recipe = Sampler(TIMES, kind, scale, audio_guidance_scale=audio)
    ours = sample(LTX2Denoiser(network), recipe, of.start(shape), *conds, noise=lambda _: of.noise(shape))
    assert ours.shape == (1, *tensor_shape(LATENT)) == theirs.shape
    found = differences(ours, theirs)
    assert max(found.values()) < 1e-5 and set(found) == {"video", "audio"}


def test_a_guidance_for_each_modality_is_that_of_the_pipeline(pipe, network, conds):
    own, pipe.scheduler = pipe.scheduler, FlowMatchEulerDiscreteScheduler(shift=1.0)
    call = {"height": HEIGHT, "width": WIDTH, "num_frames": FRAMES, "frame_rate": 24.0, "output_type": "latent"}
    call |= {"sigmas": [1.0, 0.6], "num_inference_steps": 2, "max_sequence_length": TOKENS, **guidance(3.0)}
    torch.manual_seed(1)
    theirs = pack(pipe, *pipe(" a red ball ", **call | {"audio_guidance_scale": 7.0}, return_dict=False))
    pipe.scheduler = own
    torch.manual_seed(1)
    x = family("ltx2").start((1, *LATENT))
    batch = Batch(torch.arange(1), tensor_shape(LATENT), *conds, modalities=modalities(LATENT))
    scales = DMD(teacher_guidance=3.0, audio_guidance=7.0).teacher_scales(batch, x)
    same = DMD(teacher_guidance=3.0, audio_guidance=3.0).teacher_scales(batch, x)
    with torch.no_grad():
        for sigma, after in ((1.0, 0.6), (0.6, 0.0)):
            level = torch.tensor([sigma])
            one, both = (guided_x_0(LTX2Denoiser(network), x, level, *conds, scale)[0] for scale in (3.0, same))
            torch.testing.assert_close(one, both, atol=1e-5, rtol=0)
            x_0, _ = guided_x_0(LTX2Denoiser(network), x, level, *conds, scales)
            assert differences(x_0, one)["video"] < 1e-5 and differences(x_0, one)["audio"] > 1e-3
            x = x_0 + after / sigma * (x - x_0)
    assert max(differences(x, theirs).values()) < 1e-5


def test_one_call_of_the_network(pipe, network, conds):
    """Per modality, with the mask of ones that the pipeline passes and we leave out."""
    x_t = torch.randn(1, *tensor_shape(LATENT), generator=torch.Generator().manual_seed(0))
    cond, sigma = conds[0], torch.tensor([0.7])
    assert layout(cond, 32) == LATENT and cond["layout"].numel() == 0
    ones = torch.ones(1, TOKENS, dtype=torch.int64)
    with torch.no_grad():
        video, audio = network(
            LTX2Pipeline._pack_latents(picture(x_t, LATENT)),
            sound(x_t, LATENT).transpose(1, 2),
            cond["text"],
            cond["audio_text"],
            1000 * sigma,
            sigma=1000 * sigma,
            encoder_attention_mask=ones,
            audio_encoder_attention_mask=ones,
            num_frames=3,
            height=2,
            width=3,
            fps=24.0,
            audio_num_frames=18,
            use_cross_timestep=True,
            return_dict=False,
        )
        ours = LTX2Denoiser(network)(x_t, sigma, cond).velocity
    theirs = torch.cat([video, audio], 1).transpose(1, 2)[..., None, None]
    assert max(differences(ours, theirs).values()) < 1e-5
    other = x_t.clone()
    other[:, :, modalities(LATENT)["audio"]] += 1
    with torch.no_grad():
        heard = LTX2Denoiser(network)(other, sigma, cond).velocity
    assert all(value > 1e-4 for value in differences(heard, ours).values())  # each modality sees the other


def test_what_it_cannot_do_is_named(network, conds):
    x_t = torch.zeros(1, *tensor_shape(LATENT))
    with pytest.raises(ValueError, match="model.family = 'ltx2': no causal calls and no features"):
        LTX2Denoiser(network)(x_t, torch.tensor([0.5]), conds[0], chunks=(1, 2))
    with pytest.raises(ValueError, match="is not supported"):
        family("ltx2").patch({"audio_patch_size": 2})


def test_a_dmd_step_moves_its_own_role_and_every_parameter_of_it(conds):
    networks = {}
    for seed, role in enumerate(("student", "fake_score", "teacher")):
        torch.manual_seed(seed)
        networks[role] = tiny_ltx2.make_transformer(1)
    denoisers = {role: LTX2Denoiser(network) for role, network in networks.items()}
    given = Batch(torch.arange(1), tensor_shape(LATENT), *conds, modalities=modalities(LATENT))
    method = DMD(student_interval=1)
    for update in method.updates(0):
        for role, network in networks.items():
            network.requires_grad_(role == update.role)
        terms = update.loss(denoisers, given, StatelessRng(0), {})
        terms.loss.backward()
        again = update.loss(denoisers, given, StatelessRng(0), {})
        assert torch.equal(terms.loss, again.loss)
        for role, network in networks.items():
            gradients = [p.grad is not None for p in network.parameters()]
            assert all(gradients) if role == update.role else not any(gradients)
            network.zero_grad(set_to_none=True)


def test_captions_are_stored_in_the_precision_of_the_weights(folder, rows):
    fields = Pipeline("ltx2", folder).fields(TOKENS)
    stored = {name: to_bytes(name, rows[0][name], field) for name, field in fields.items()}
    assert {len(value) for value in stored.values()} == {TOKENS * 16 * 2}
    again = from_bytes(stored, fields, LATENT)
    assert torch.equal(again["audio_text"], rows[0]["audio_text"].bfloat16())


@pytest.mark.parametrize(("kind", "scale", "audio"), [("sde", 1.0, None), ("ode", 2.0, 5.0)])
def test_diffusers_alone_samples_an_export(folder, network, tmp_path, kind, scale, audio, scripts_in_process):
    sampler = Sampler(TIMES, kind, scale, audio_guidance_scale=audio)
    out = export_student(tmp_path / "out", network, folder, sampler, LATENT, card={}, **SIZE)
    card = (out / "README.md").read_text()
    assert "LTX2Pipeline" in card and ("guidance 2, of sound 5." if audio else "guidance off.") in card
    assert json.loads((out / "recipe.json").read_text())["latent_shape"] == list(LATENT)
    assert verify(out, "a red ball", seed=3) < 1e-4


def test_sound_is_that_of_the_pipeline_and_is_heard_in_the_mp4(folder, pipe, tmp_path):
    from ray_distill.data.read.video import write_clip

    tokens = torch.randn(1, 32, 18, generator=torch.Generator().manual_seed(0))
    decoder = family("ltx2").sound.decoder(folder)
    samples = decoder.decode(tokens)
    with torch.no_grad():
        raw = pipe._denormalize_audio_latents(
            tokens.transpose(1, 2), pipe.audio_vae.latents_mean, pipe.audio_vae.latents_std
        )
        mel = pipe.audio_vae.decode(pipe._unpack_audio_latents(raw, 18, num_mel_bins=16), return_dict=False)[0]
        torch.testing.assert_close(samples, pipe.vocoder(mel), atol=1e-6, rtol=0)
    assert samples.shape[:2] == (1, 2) and decoder.rate == 24_000
    seconds = samples.shape[2] / decoder.rate
    assert abs(seconds - FRAMES / 24) < 0.05  # a token of sound is 0.04 s
    tone = (0.5 * torch.sin(torch.arange(16_800) * 0.1)).expand(2, -1).numpy()
    write_clip(tmp_path / "clip.mp4", torch.zeros(FRAMES, 64, 96, 3).byte().numpy(), 24.0, sound=Track(tone, 24_000))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        (picture_stream,), (heard,) = container.streams.video, container.streams.audio
        assert picture_stream.frames == FRAMES and (heard.rate, heard.channels) == (24_000, 2)
        decoded = torch.cat([torch.from_numpy(frame.to_ndarray()) for frame in container.decode(audio=0)], 1)
    assert abs(decoded.shape[1] - 16_800) <= 2048 and 0.3 < decoded[:, 2000:14_000].std() < 0.4
    with pytest.raises(ValueError, match="sound must be float32"):
        Track(tone[0], 24_000)


def test_an_adapter_loads_by_the_pipelines_own_loader(folder, tmp_path):
    lora = LoRA(rank=2, targets=family("ltx2").targets)
    network, x_t = load_transformer("ltx2", folder), torch.randn(1, *tensor_shape(LATENT))
    add_lora(network, lora, seed=0)
    adapter = {plain(n): p.detach() for n, p in network.named_parameters() if p.requires_grad}
    torch.manual_seed(0)
    adapter = {name: torch.randn_like(value) * 0.3 for name, value in adapter.items()}
    assert any("audio_to_video_attn" in name for name in adapter) and any(".audio_attn1." in name for name in adapter)
    whole = load_transformer("ltx2", folder)
    merge(whole, lora, adapter)
    sampler = Sampler(TIMES, "sde")
    out = export_student(tmp_path / "out", whole, folder, sampler, LATENT, card={}, adapter=(lora, adapter), **SIZE)
    pipe = LTX2Pipeline.from_pretrained(folder)
    pipe.load_lora_weights(out, weight_name=ADAPTER)
    rows = {"text": torch.randn(TOKENS, 16), "audio_text": torch.randn(TOKENS, 16)}
    cond = collate([rows], Pipeline("ltx2", folder).fields(TOKENS), LATENT)
    with torch.no_grad():
        base, ours, theirs = (
            LTX2Denoiser(one)(x_t, torch.tensor([0.6]), cond).velocity
            for one in (load_transformer("ltx2", folder), whole, pipe.transformer)
        )
    assert max(differences(ours, theirs).values()) < 1e-4 and min(differences(ours, base).values()) > 1e-3


def test_parts_are_checked_by_their_headers(folder, tmp_path):
    assert check_text(folder, "ltx2", "model.path")[0] == 16 and check_vae(folder, "model.path").channels == 32
    check_others(folder, "ltx2", "model.path")
    family("ltx2").check(Pipeline("ltx2", folder), TOKENS)
    with pytest.raises(ValueError, match="max_sequence_length = 20"):
        family("ltx2").check(Pipeline("ltx2", folder), 20)
    copy = copytree(folder, tmp_path / "copy")
    config = copy / "audio_vae/config.json"
    config.write_text(config.read_text().replace('"latent_channels": 2', '"latent_channels": 4'))
    with pytest.raises(ValueError, match="audio_vae makes tokens of 64"):
        family("ltx2").check(Pipeline("ltx2", copy), TOKENS)
    (copy / "vocoder/diffusion_pytorch_model.safetensors").unlink()
    config.write_text(config.read_text().replace('"latent_channels": 4', '"latent_channels": 2'))
    with pytest.raises(ConfigError, match="vocoder: no diffusion_pytorch_model.safetensors"):
        check_others(copy, "ltx2", "model.path")


def checked(folder, tmp_path, **dotted):
    """Refused before anything starts, by a message that names the key."""
    prompts = tmp_path / "p.txt"
    prompts.write_text("a red ball\n")
    asked = {"model": {"family": "ltx2", "path": str(folder), "max_sequence_length": TOKENS}}
    asked |= {"data__manifest": None, "data__datasets": [{"prompts": str(prompts)}], "data__fps": 24}
    asked |= {"data__frames": FRAMES, "data__height": HEIGHT, "data__width": WIDTH}
    check_sound(run_config(tmp_path, **(asked | dotted)))


def test_what_would_train_a_wrong_sound_is_refused(folder, tmp_path):
    checked(folder, tmp_path)
    with pytest.raises(ConfigError, match=r"data.fps = 25: family 'ltx2' places frames .* use 24"):
        checked(folder, tmp_path, data__fps=25)
    with pytest.raises(ConfigError, match="exit_embedding"):
        checked(folder, tmp_path, method__exit_embedding=True)
    with pytest.raises(ConfigError, match="'dcm_semantic': this method trains on video without sound"):
        checked(
            folder,
            tmp_path,
            method={"name": "dcm", "mode": "semantic"},
            roles={"student": {"optimizer": {"learning_rate": 1e-4}}},
        )
    model = {"family": "ltx", "path": str(folder), "from_image": True}
    with pytest.raises(ConfigError, match="from_image = true: family 'ltx' makes videos of text alone"):
        check_pictures(run_config(tmp_path, model=model))
    with pytest.raises(ValueError, match="exit_embedding = true: a LTX2.* embeds its time in several places; remove"):
        check_exits(tiny_ltx2.make_transformer(1), "method.exit_embedding = true")
    shared = {"train__sequence_parallel": 2, "train__workers": 2}
    check_heads(run_config(tmp_path, model={"family": "ltx2", "path": str(folder)}, **shared))
    network = tiny_ltx2.make_transformer()
    other = type(network).from_config(dict(network.config) | {"num_attention_heads": 4})
    other.save_pretrained(tmp_path / "other/transformer")
    with pytest.raises(ConfigError, match="student has 2 attention heads in each layer; .* use one of 1, 2, which"):
        check_heads(
            run_config(
                tmp_path,
                model={"family": "ltx2", "path": str(tmp_path / "other")},
                train__sequence_parallel=4,
                train__workers=4,
            )
        )
    with pytest.raises(ConfigError, match="method.audio_weight: clips of family 'wan' have no sound"):
        check_sound(run_config(tmp_path, method__audio_weight=0.5))
    with pytest.raises(ConfigError, match="method.audio_guidance: clips of family 'wan' have no sound"):
        check_sound(run_config(tmp_path, method__audio_guidance=7.0))
    with pytest.raises(ConfigError, match="evaluate.teacher_audio_guidance: clips of family 'wan' have no sound"):
        check_sound(run_config(tmp_path, evaluate__teacher_audio_guidance=7.0))
    taught = [{"prompts": str(tmp_path / "p.txt"), "teacher": {"audio_guidance": 7.0}}]
    with pytest.raises(ConfigError, match=r"data.datasets.0.teacher.audio_guidance: clips of family 'wan' have no"):
        check_sound(run_config(tmp_path, data__manifest=None, data__datasets=taught))


def test_pairs_have_the_solvers_guidance_of_sound(folder, tmp_path):
    prompts = tmp_path / "p.txt"
    prompts.write_text("a red ball\n")
    warm = {"name": "dmd_warm_start", "timesteps": "1000,500", "pairs": True, "solver_audio_guidance": 9.0}
    recipe = {"steps": 48, "shift": 8.0, "guidance": 7.0, "levels": [1000.0, 500.0]}

    def asked(**more):
        taught = [{"prompts": str(prompts), "teacher": recipe | more}]
        check_pairs(run_config(tmp_path, method=warm, data__manifest=None, data__datasets=taught))

    asked(audio_guidance=9.0)
    for more in ({}, {"audio_guidance": 7.0}):
        with pytest.raises(ConfigError, match=r'pairs = true needs .* use teacher: {.*"audio_guidance": 9.0, "levels"'):
            asked(**more)


def test_plan_counts_picture_and_sound(folder):
    fields = tuple(Pipeline("ltx2", folder).fields(TOKENS).items())
    config = json.dumps(dict(tiny_ltx2.make_transformer(1).config))
    one, more = (
        count(Workload("ltx2", config, "float32", False, 1, (*LATENT[:4], length), fields, grad=True))
        for length in (18, 36)
    )
    assert 0 < one.saved < more.saved and 0 < one.flops < more.flops


def test_a_teachers_clips_come_as_batches_of_picture_and_sound(folder, tmp_path):
    """From prompts over stores and index to what a method gets; x_0 is what the teacher's solver makes of its noise."""
    (tmp_path / "p.txt").write_text("a red ball\nrain on a roof\n")
    teacher = {"steps": 2, "shift": 1.0, "guidance": 2.0, "audio_guidance": 5.0}
    part = {"prompts": tmp_path / "p.txt", "teacher": teacher}
    asked = source(tmp_path, part, frames=FRAMES, height=HEIGHT, width=WIDTH, fps=24)
    models = Encoders(Pipeline("ltx2", folder), TOKENS)
    cache, (captions, _) = make(asked, models)
    assert cache.latent_shape == LATENT and set(cache.shapes([0, 1])) == {LATENT} and len(captions) == 3
    fields = Pipeline("ltx2", folder).fields(TOKENS)
    stream = Stream(cache, 0, 0, 1, world=1, global_batch=2, micro_batch=2, with_latents=True, fields=fields)
    ((given,),) = delivered(stream, 0)
    assert given.latent_shape == tensor_shape(LATENT) and given.x_0.shape == (2, *tensor_shape(LATENT))
    assert given.modalities == modalities(LATENT) and layout(given.cond, 32) == layout(given.uncond, 32) == LATENT
    parts = picture(given.x_0, LATENT), sound(given.x_0, LATENT)
    assert all(x.isfinite().all() and x.std() > 0.1 for x in parts)
    denoise, row = (
        LTX2Denoiser(load_transformer("ltx2", folder)),
        cache.rows([0], ["id", "caption", "latents", "shape"])[0],
    )
    x_T = StatelessRng(0).noise(PURPOSE, torch.tensor([int(row["id"][:15], 16)]), tensor_shape(LATENT))
    caption, null = models.text_encoder().encode([row["caption"], ""])
    cond = collate([caption], fields, LATENT)
    recipe = Sampler((1000.0, 500.0), "ode", 2.0, audio_guidance_scale=5.0)
    x_0 = sample(denoise, recipe, x_T, cond, unconditional(null, cond, fields), noise=lambda _: x_T)
    theirs = torch.from_numpy(cache.latents([row]))
    assert max(differences(x_0, theirs).values()) < 0.02  # stored captions are bf16
    flat = sample(
        denoise,
        replace(recipe, audio_guidance_scale=None),
        x_T,
        cond,
        unconditional(null, cond, fields),
        noise=lambda _: x_T,
    )
    assert differences(flat, theirs)["audio"] > 0.1
    terms = DMD(backward_simulation=False).student_loss(
        dict.fromkeys(("student", "fake_score", "teacher"), denoise),
        given,
        StatelessRng(0),
        {},
    )
    assert terms.loss.isfinite()
