"""HunyuanVideo 1.5 from an image: its latents, its mask and SigLIP's states; equal to diffusers' own pipeline."""

import json
import sys
from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Transformer3DModel,
)
from diffusers.guiders import ClassifierFreeGuidance
from PIL import Image

from ray_distill.data.encoders import Encoders
from ray_distill.data.feed.stream import Stream
from ray_distill.data.pictures import picture_rows
from ray_distill.data.read.transform import resize
from ray_distill.diffusion.samplers import sample
from ray_distill.errors import ConfigError
from ray_distill.export.diffusers import export_student
from ray_distill.export.verify import verify
from ray_distill.methods import DMD
from ray_distill.models import family
from ray_distill.models.conditions import collate, unconditional
from ray_distill.models.hunyuan15.network import HunyuanDenoiser
from ray_distill.models.hunyuan15.sample import fit
from ray_distill.models.loading import load_transformer
from ray_distill.models.pipeline import Pipeline
from ray_distill.plan.passes import Workload, count
from ray_distill.rng import StatelessRng
from ray_distill.train.driver.check import check
from ray_distill.types import Sampler
from tests.unit.data import odd
from tests.unit.data.test_cache import delivered
from tests.unit.data.test_index import make, source
from tests.unit.toys import run_config

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import tiny_hunyuan15

PROMPTS = ['a sign "open"', ""]
FRAMES, HEIGHT, WIDTH, TOKENS = 9, 64, 64, 24
LATENT = (8, 3, 4, 4)
TIMES = (1000.0, 908.0, 724.0)
IDLE = {"attn.to_add_out", "ff_context.net.0.proj", "ff_context.net.2", "attn.add_q_proj", "attn.norm_added_q"}
"""Layers of the last block for its text, which goes nowhere."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The pipeline's folder and a picture of the clip's size."""
    home = tmp_path_factory.mktemp("tiny_hunyuan15_i2v")
    tiny_hunyuan15.main([str(home / "model"), "--from-image"])
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(home / "picture.png")
    return home


@pytest.fixture(scope="module")
def models(home):
    return Encoders(Pipeline("hunyuan15", home / "model"), TOKENS)


@pytest.fixture(scope="module")
def conds(home, models):
    (picture,) = picture_rows(models, [home / "picture.png"], (FRAMES, HEIGHT, WIDTH))
    caption, null = models.text_encoder().encode(PROMPTS)
    cond = collate([{**caption, **picture}], models.fields, LATENT)
    return cond, unconditional(null, cond, models.fields)


@pytest.fixture(scope="module")
def network(home):
    return load_transformer("hunyuan15", home / "model")


@pytest.fixture(scope="module")
def pipe(home, network):
    euler, guider = FlowMatchEulerDiscreteScheduler(shift=1.0), ClassifierFreeGuidance(guidance_scale=3.0)
    pipe = HunyuanVideo15ImageToVideoPipeline.from_pretrained(
        home / "model", transformer=network, scheduler=euler, guider=guider
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.tokenizer_max_length = TOKENS
    return pipe


def test_the_pipelines_own_call(home, pipe, network, conds):
    """With guidance, in both branches of which the image stays."""
    torch.manual_seed(1)
    call = {"num_frames": FRAMES, "sigmas": [t / 1000 for t in TIMES], "num_inference_steps": len(TIMES)}
    theirs = pipe(Image.open(home / "picture.png"), PROMPTS[0], output_type="latent", **call).frames
    torch.manual_seed(1)
    of, shape = family("hunyuan15"), (1, *LATENT)
    x_T, sampler = of.start(shape), Sampler(TIMES, "ode", 3.0)
    ours = sample(HunyuanDenoiser(network), sampler, x_T, *conds, noise=lambda _: of.noise(shape))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_an_image_is_encoded_as_the_pipeline_does(home, pipe, conds):
    picture, device = Image.open(home / "picture.png"), torch.device("cpu")
    states = pipe.encode_image(picture, 1, device, torch.float32)
    latents = pipe._get_image_latents(pipe.vae, pipe.video_processor, picture, HEIGHT, WIDTH, device)
    torch.testing.assert_close(conds[0]["image"], states, rtol=0, atol=1e-5)
    torch.testing.assert_close(conds[0]["first"], latents[:, :, 0], rtol=0, atol=1e-5)
    assert conds[1]["image"] is conds[0]["image"]


def test_scripts_cut_a_picture_as_training_does():
    for size in ((96, 128), (130, 70), (128, 128)):
        pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
        ours = resize(pixels[None], HEIGHT, WIDTH)[0]
        assert np.array_equal(np.array(fit(Image.fromarray(pixels), HEIGHT, WIDTH)), ours)


def velocity(network, cond):
    x_t = torch.randn(1, *LATENT, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return HunyuanDenoiser(network)(x_t, torch.tensor([0.7]), cond).velocity


def given(network, change):
    """``network`` with its input changed."""

    class Changed:
        config = network.config

        def __call__(self, hidden_states, **rest):
            return network(hidden_states=change(hidden_states.clone()), **rest)

    return Changed()


def test_planted_faults_are_seen(network, conds):
    """No mask of the image's frame, its latents in the last frame, or the image in one of its two ways alone."""
    cond, right = conds[0], velocity(network, conds[0])

    def without_mask(x):
        x[:, 16] = 0
        return x

    def at_the_end(x):
        x[:, 8:16] = x[:, 8:16].flip(2)
        return x

    wrong = [velocity(given(network, change), cond) for change in (without_mask, at_the_end)]
    wrong += [velocity(network, cond | {name: torch.randn_like(cond[name])}) for name in ("first", "image")]
    wrong += [velocity(network, {name: x for name, x in cond.items() if name != "image"})]
    assert min((right - other).abs().max() for other in wrong) > 1e-3


def test_every_part_learns_from_an_image(conds):
    torch.manual_seed(0)
    network = tiny_hunyuan15.make_transformer(1, "i2v")
    HunyuanDenoiser(network)(torch.randn(1, *LATENT), torch.tensor([0.7]), conds[0]).velocity.square().mean().backward()
    idle = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert {name.rpartition(".")[0].removeprefix("transformer_blocks.0.") for name in idle} == IDLE


def test_plan_counts_it(models, network, conds, monkeypatch):
    fields, config = tuple(models.fields.items()), json.dumps(dict(network.config, num_layers=1))
    assert count(Workload("hunyuan15", config, "float32", False, 1, LATENT, fields, grad=True)).backward_flops > 0
    right = velocity(network, conds[0])
    monkeypatch.setattr(f"{HunyuanDenoiser.__module__}.is_fake", lambda _: True)
    torch.testing.assert_close(velocity(network, conds[0]), right, rtol=0, atol=1e-5)


def test_the_published_size():
    pipeline = Pipeline("hunyuan15", Path("absent/HunyuanVideo-1.5-Diffusers-480p_i2v"))
    latent, fields = pipeline.latent_shape(121, 480, 848), pipeline.fields(1000)
    assert fields["first"].sizes(latent) == (32, 30, 53) and fields["image"].sizes(latent) == (729, 1152)


def checked(home, tmp_path, **dotted):
    """`check` of a run on the tiny pipeline, from prompts with pictures."""
    copyfile(home / "picture.png", tmp_path / "picture.png")
    row = {"caption": "a red ball", "image": "picture.png"}
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    asked = {"model": {"family": "hunyuan15", "path": str(home / "model"), "max_sequence_length": TOKENS}}
    asked |= {"data__manifest": None, "track__uri": ""}
    asked |= {"data__datasets": [{"prompts": str(tmp_path / "p.jsonl"), "image_column": "image"}]}
    asked |= {"data__frames": FRAMES, "data__height": HEIGHT, "data__width": WIDTH}
    check(run_config(tmp_path, **(asked | dotted)))


def test_a_run_that_fits_is_ready_and_others_are_refused_by_name(home, tmp_path):
    checked(home, tmp_path)
    checked(home, tmp_path, model__from_image=True)
    with pytest.raises(
        ConfigError, match="model.from_image = false: .* is a HunyuanVideo15ImageTo.*, which begins from an image"
    ):
        checked(home, tmp_path, model__from_image=False)
    with pytest.raises(
        ConfigError, match="needs a picture with each prompt; name the pictures' column as image_column"
    ):
        checked(home, tmp_path, data__datasets=[{"prompts": str(tmp_path / "p.jsonl")}])


def test_an_image_encoder_of_another_pipeline_is_refused(home, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for part in (home / "model").iterdir():
        if part.name not in ("image_encoder", "feature_extractor"):
            (folder / part.name).symlink_to(part)
    config = json.loads((home / "model/image_encoder/config.json").read_text())
    (folder / "image_encoder").mkdir()
    (folder / "image_encoder/config.json").write_text(json.dumps(config | {"hidden_size": 48}))
    with pytest.raises(ConfigError, match="takes SigLIP's states of 32, and image_encoder gives 48"):
        Pipeline("hunyuan15", folder).fields(TOKENS)
    (folder / "image_encoder/config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="image_encoder: no model.safetensors"):
        checked(home, tmp_path, model__path=str(folder))
    copyfile(home / "model/image_encoder/model.safetensors", folder / "image_encoder/model.safetensors")
    with pytest.raises(ConfigError, match="no feature_extractor/, which encodes images"):
        checked(home, tmp_path, model__path=str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sde", "ode"])
def test_diffusers_alone_samples_an_export(home, tmp_path, kind):
    """From a picture of another size than the clip, whose size the pipeline would not choose."""
    size = {"frames": FRAMES, "height": 48, "width": 80, "fps": 8.0, "max_sequence_length": TOKENS}
    sampler, network = (
        Sampler(TIMES, kind, 2.0 if kind == "ode" else 1.0),
        load_transformer("hunyuan15", home / "model"),
    )
    assert isinstance(network, HunyuanVideo15Transformer3DModel)
    out = export_student(
        tmp_path / "out", network, home / "model", sampler, (8, 3, 3, 5), card={}, from_image=True, **size
    )
    assert verify(out, PROMPTS[0]) < 1e-4
    assert "pipeline_tag: image-to-video" in (out / "README.md").read_text()


@pytest.mark.slow
def test_clips_and_captions_come_as_batches(home, tmp_path):
    """From files over stores and index to what a method gets: quoted words of one caption, none of another."""
    (tmp_path / "in").mkdir()
    for name, caption in (("a", 'a sign "open"'), ("b", "a red kite")):
        odd.write(tmp_path / f"in/{name}.mp4", size=(64, 80), frames=9)
        (tmp_path / f"in/{name}.txt").write_text(caption)
    models = Encoders(Pipeline("hunyuan15", home / "model"), TOKENS)
    part = {"videos": tmp_path / "in", "captions": "sidecar"}
    cache, (captions, clips) = make(source(tmp_path, part, frames=5, height=64, width=64), models)
    assert len(captions) == 3 and len(clips) == 1  # two files of one content
    stream = Stream(cache, 0, 0, 1, world=1, global_batch=2, micro_batch=2, with_latents=True, fields=models.fields)
    ((batch,),) = delivered(stream, 0)
    assert sorted(batch.cond["glyphs_mask"].sum(1).tolist()) == [0, len(b'Text "open". ') + 1]
    assert batch.uncond["glyphs_mask"].sum() == 0 and batch.uncond["text_mask"].sum(1).tolist() == [2, 2]
    torch.testing.assert_close(batch.cond["first"], batch.x_0[:, :, 0], rtol=0, atol=1e-5)
    assert torch.equal(batch.uncond["image"], batch.cond["image"])
    denoise = HunyuanDenoiser(load_transformer("hunyuan15", home / "model"))
    terms = DMD(backward_simulation=False).student_loss(
        dict.fromkeys(("student", "fake_score", "teacher"), denoise), batch, StatelessRng(0), {}
    )
    assert terms.loss.isfinite()
