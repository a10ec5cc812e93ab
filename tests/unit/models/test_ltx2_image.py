"""LTX-2 from an image: its tokens at level 0 in the first latent frame, sound as ever; equal to diffusers' pipeline."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler, LTX2ImageToVideoPipeline
from diffusers.pipelines.ltx2.utils import apply_image_conditioning_crf, resolve_default_image_crf
from PIL import Image

from ray_distill.data.encoders import Encoders
from ray_distill.data.feed.stream import Stream
from ray_distill.data.pictures import picture_rows
from ray_distill.data.prepare.encode import EncodePictures
from ray_distill.data.read.transform import resize, to_pixels
from ray_distill.diffusion.samplers import sample
from ray_distill.errors import ConfigError
from ray_distill.export.diffusers import export_student
from ray_distill.export.verify import verify
from ray_distill.methods import DMD, LCM, METHODS
from ray_distill.models import family
from ray_distill.models.codec import load_codec
from ray_distill.models.conditions import collate, unconditional
from ray_distill.models.loading import load_transformer
from ray_distill.models.ltx2.image import LTX2ImageEncoder
from ray_distill.models.ltx2.network import LTX2Denoiser
from ray_distill.models.ltx2.sample import fit, guidance, pack
from ray_distill.models.packed import modalities, picture, prefix_length, tensor_shape
from ray_distill.models.pipeline import Pipeline
from ray_distill.plan.passes import Workload, count
from ray_distill.rng import StatelessRng
from ray_distill.train.driver.check import check
from ray_distill.types import Batch, Prediction, Sampler
from tests.unit.data.heard import click, write
from tests.unit.data.test_cache import delivered
from tests.unit.data.test_index import make, source
from tests.unit.toys import run_config

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import tiny_ltx2

FRAMES, HEIGHT, WIDTH, TOKENS = 17, 64, 96, 16
LATENT = (32, 3, 2, 3, 18)
PREFIX = prefix_length(1, LATENT)
TIMES = (1000.0, 937.5, 625.0)
PROMPTS = ["a red ball", ""]
WHERE = modalities(LATENT)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The pipeline's folder and a picture of the clip's size."""
    home = tmp_path_factory.mktemp("tiny_ltx2_i2v")
    tiny_ltx2.main([str(home / "model")])
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(home / "picture.png")
    return home


@pytest.fixture(scope="module")
def models(home):
    return Encoders(Pipeline("ltx2", home / "model", from_image=True), TOKENS)


@pytest.fixture(scope="module")
def conds(home, models):
    (first,) = picture_rows(models, [home / "picture.png"], (FRAMES, HEIGHT, WIDTH))
    caption, null = models.text_encoder().encode(PROMPTS)
    cond = collate([{**caption, **first}], models.fields, LATENT)
    return cond, unconditional(null, cond, models.fields)


@pytest.fixture(scope="module")
def network(home):
    return load_transformer("ltx2", home / "model")


@pytest.fixture(scope="module")
def pipe(home, network):
    pipe = LTX2ImageToVideoPipeline.from_pretrained(home / "model", transformer=network)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def furthest(ours, theirs):
    return {name: (ours - theirs)[:, :, where].abs().max().item() for name, where in WHERE.items()}


def sampled(pipe, home, kind, scale):
    """Packed latents of the pipeline's own call."""
    own, pipe.scheduler = (
        pipe.scheduler,
        {"ode": FlowMatchEulerDiscreteScheduler, "sde": FlowMatchLCMScheduler}[kind](shift=1.0),
    )
    torch.manual_seed(1)
    call = {"height": HEIGHT, "width": WIDTH, "num_frames": FRAMES, "frame_rate": 24.0}
    call |= {"sigmas": [t / 1000 for t in TIMES], "num_inference_steps": len(TIMES), "max_sequence_length": TOKENS}
    image = Image.open(home / "picture.png")
    video, audio = pipe(
        image=image, prompt=PROMPTS[0], output_type="latent", return_dict=False, **call, **guidance(scale)
    )
    pipe.scheduler = own
    return pack(pipe, video, audio)


def ours(denoise, conds, kind, scale):
    torch.manual_seed(1)
    of, shape = family("ltx2"), (1, *LATENT)
    return sample(denoise, Sampler(TIMES, kind, scale), of.start(shape), *conds, noise=lambda _: of.image_noise(shape))


@pytest.mark.parametrize(("kind", "scale"), [("ode", 3.0), ("sde", 1.0)])
def test_the_pipelines_own_call(home, pipe, network, conds, kind, scale):
    """Levels, guidance with the image in both branches, order of the draws; the first frame stays as it is."""
    theirs, found = sampled(pipe, home, kind, scale), ours(LTX2Denoiser(network), conds, kind, scale)
    assert max(furthest(found, theirs).values()) < 1e-5
    torch.testing.assert_close(picture(found, LATENT)[:, :, 0], conds[0]["first"], rtol=0, atol=1e-5)


class Noised:
    """A planted fault: the first frame enters with noise, at the level of the clip."""

    def __init__(self, network):
        self.denoise = LTX2Denoiser(network)

    def __call__(self, x_t, sigma, cond, **how):
        v = self.denoise(x_t, sigma, {name: value for name, value in cond.items() if name != "first"}, **how).velocity
        right = self.denoise(x_t, sigma, cond, **how).velocity
        return Prediction(torch.cat([right[:, :, :PREFIX], v[:, :, PREFIX:]], dim=2))


def test_a_noised_picture_and_an_audio_at_level_0_are_seen(home, pipe, network, conds):
    theirs = sampled(pipe, home, "ode", 1.0)
    assert min(furthest(ours(Noised(network), conds, "ode", 1.0), theirs).values()) > 1e-3

    def quiet(*, audio_timestep, **rest):
        return network(audio_timestep=0 * audio_timestep, **rest)

    assert furthest(ours(LTX2Denoiser(quiet), conds, "ode", 1.0), theirs)["audio"] > 1e-3


def test_a_picture_is_encoded_as_the_pipeline_does(home, pipe, conds, models):
    plain = np.array(Image.open(home / "picture.png"))
    shown = Image.fromarray(apply_image_conditioning_crf(plain, resolve_default_image_crf(pipe.text_encoder)))
    pixels = pipe.video_processor.preprocess(shown, height=HEIGHT, width=WIDTH)
    latents, mask = pipe.prepare_latents(pixels, 1, 32, HEIGHT, WIDTH, FRAMES, 0.0, torch.float32, torch.device("cpu"))
    assert mask.sum() == PREFIX
    first = latents.detach()[:, :PREFIX].transpose(1, 2).unflatten(2, LATENT[2:4])
    torch.testing.assert_close(conds[0]["first"], first, rtol=0, atol=1e-5)
    assert conds[1]["first"] is conds[0]["first"]
    stored = EncodePictures(models).row(plain[None], FRAMES)["first"]  # as the cache of prompts with pictures does
    assert np.allclose(np.frombuffer(stored, np.float32).reshape(LATENT[0], *LATENT[2:4]), first[0], atol=1e-5)
    (uncompressed,) = LTX2ImageEncoder(load_codec(models.path / "vae")).encode(to_pixels(plain[None])[None])
    assert (uncompressed["first"] - first[0]).abs().max() > 1e-3
    rows, columns = 130, 70
    other = np.random.default_rng(1).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    ours_cut = resize(other[None], HEIGHT, WIDTH)[0]
    assert np.array_equal(np.array(fit(Image.fromarray(other), HEIGHT, WIDTH)), ours_cut)


def given(conds, **more):
    return Batch(torch.arange(1), tensor_shape(LATENT), *conds, prefix=PREFIX, modalities=WHERE, **more)


@pytest.mark.parametrize("name", ["dmd", "lcm", "flow_matching"])
def test_each_update_moves_its_own_role_and_no_loss_counts_the_picture(conds, name):
    """Isolation, equal seeds, and a planted fault: a network that misses the picture by 7 changes a loss only where
    its tokens are counted."""
    method = {"dmd": DMD(student_interval=1), "lcm": LCM(target_decay=0.0)}.get(name) or METHODS[name]()
    modules = {}
    for seed, role in enumerate(method.roles):
        torch.manual_seed(seed)
        modules[role] = tiny_ltx2.make_transformer(1)
    networks = {role: LTX2Denoiser(module) for role, module in modules.items()}
    batch, rng = given(conds, x_0=StatelessRng(1).noise("x", torch.arange(1), tensor_shape(LATENT))), StatelessRng(0)

    def off(denoise):
        def see(x_t, sigma, cond, **how):
            v = denoise(x_t, sigma, cond, **how).velocity
            return Prediction(torch.cat([v[:, :, :PREFIX] + 7, v[:, :, PREFIX:]], dim=2))

        return see

    for update in method.updates(0):
        for role, module in modules.items():
            module.requires_grad_(role == update.role)
        terms = update.loss(networks, batch, rng, {})
        terms.loss.backward()
        for role, module in modules.items():
            gradients = [p.grad is not None for p in module.parameters()]
            assert all(gradients) if role == update.role else not any(gradients)
            module.zero_grad(set_to_none=True)
        with torch.no_grad():
            again = update.loss(networks, batch, rng, {})
            assert torch.equal(again.loss, terms.loss.detach())
            wrong = networks | {update.role: off(networks[update.role])}
            same, counted = (update.loss(wrong, replace(batch, prefix=prefix), rng, {}).loss for prefix in (PREFIX, 0))
            plain = update.loss(networks, replace(batch, prefix=0), rng, {}).loss
        assert torch.allclose(same, terms.loss, rtol=1e-5) and not torch.allclose(counted, plain, rtol=1e-2)


def test_student_teacher_and_fake_score_see_the_clean_picture_in_both_branches(network, conds):
    seen = []

    def watch(hidden_states, timestep, audio_timestep, **rest):
        seen.append((hidden_states[:, :PREFIX], timestep, audio_timestep))
        return network(hidden_states=hidden_states, timestep=timestep, audio_timestep=audio_timestep, **rest)

    networks = dict.fromkeys(("student", "teacher", "fake_score"), LTX2Denoiser(watch))
    method = DMD(student_interval=1, teacher_guidance=3.0)
    for update in method.updates(0):
        update.loss(networks, given(conds), StatelessRng(0), {})
    first = conds[0]["first"].flatten(2).transpose(1, 2)
    assert {len(hidden) for hidden, _, _ in seen} == {1, 2}
    for hidden, timestep, audio_timestep in seen:
        assert torch.equal(hidden, first.expand_as(hidden)) and not timestep[:, :PREFIX].any()
        assert torch.equal(timestep[:, PREFIX:], audio_timestep[:, None].expand_as(timestep[:, PREFIX:]))
        assert audio_timestep.all()
    x = method.roll_out(networks, given(conds), StatelessRng(0), "student", grad=False)
    torch.testing.assert_close(picture(x, LATENT)[:, :, 0], conds[0]["first"], rtol=0, atol=1e-5)


def test_the_published_size(models):
    published = Pipeline("ltx2", Path("absent/LTX-2"), from_image=True).fields(1024)
    assert published["first"].sizes((128, 16, 16, 24, 126)) == (128, 16, 24)
    assert "first" not in Pipeline("ltx2", models.path).fields(TOKENS)


@pytest.mark.slow
def test_plan_counts_a_level_for_each_token(models):
    text = Pipeline("ltx2", models.path).fields(TOKENS)
    config = json.dumps(dict(tiny_ltx2.make_transformer(1).config))
    plain, pictured = (
        count(Workload("ltx2", config, "float32", False, 1, LATENT, tuple(fields.items()), grad=True))
        for fields in (text, models.fields)
    )
    assert plain.saved < pictured.saved and plain.flops < pictured.flops


def checked(home, tmp_path, **dotted):
    """`check` of a run on the tiny pipeline, from prompts with pictures."""
    copyfile(home / "picture.png", tmp_path / "picture.png")
    (tmp_path / "p.jsonl").write_text(json.dumps({"caption": "a red ball", "image": "picture.png"}) + "\n")
    model = {"family": "ltx2", "path": str(home / "model"), "max_sequence_length": TOKENS, "from_image": True}
    asked = {"model": model, "data__manifest": None, "track__uri": "", "data__fps": 24}
    asked |= {"data__datasets": [{"prompts": str(tmp_path / "p.jsonl"), "image_column": "image"}]}
    asked |= {"data__frames": FRAMES, "data__height": HEIGHT, "data__width": WIDTH}
    check(run_config(tmp_path, **(asked | dotted)))


def test_a_run_that_fits_is_ready_and_others_are_refused_by_name(home, tmp_path):
    checked(home, tmp_path)
    with pytest.raises(ConfigError, match="needs a picture with each prompt"):
        checked(home, tmp_path, data__datasets=[{"prompts": str(tmp_path / "p.jsonl")}])
    with pytest.raises(ConfigError, match="image_column = 'image', and .*LTX-2: model.from_image=true"):
        checked(home, tmp_path, model__from_image=None)
    with pytest.raises(ConfigError, match="no frame is left to generate; raise data.frames"):
        checked(home, tmp_path, data__frames=1)


@pytest.mark.parametrize(("kind", "scale"), [("sde", 1.0), pytest.param("ode", 2.0, marks=pytest.mark.slow)])
def test_diffusers_alone_samples_an_export(home, network, tmp_path, kind, scale, scripts_in_process):
    """From a picture of another size than the clip."""
    size = {"height": HEIGHT, "width": WIDTH, "frames": FRAMES, "fps": 24.0, "max_sequence_length": TOKENS}
    sampler = Sampler(TIMES, kind, scale)
    out = export_student(tmp_path / "out", network, home / "model", sampler, LATENT, card={}, from_image=True, **size)
    assert verify(out, PROMPTS[0], seed=3) < 1e-4
    card = (out / "README.md").read_text()
    assert "pipeline_tag: image-to-video" in card and "LTX2ImageToVideoPipeline" in card


def test_clips_of_files_come_with_their_first_frame_and_their_sound(home, models, tmp_path):
    """From files over stores and index to what a method gets."""
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/a dog barks.mp4", click(1, 0.2), frames=24)
    part = {"videos": tmp_path / "in", "captions": "filename"}
    cache, (_, clips) = make(source(tmp_path, part, frames=FRAMES, height=HEIGHT, width=WIDTH, fps=24), models)
    stream = Stream(cache, 0, 0, 1, world=1, global_batch=2, micro_batch=2, with_latents=True, fields=models.fields)
    ((batch,),) = delivered(stream, 0)
    assert len(clips) == 1 and batch.prefix == PREFIX and batch.modalities == WHERE
    torch.testing.assert_close(batch.cond["first"], picture(batch.x_0, LATENT)[:, :, 0], rtol=0, atol=1e-5)
    assert batch.uncond["first"] is batch.cond["first"]
