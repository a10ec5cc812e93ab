"""Image to video: our denoiser and sampler against diffusers' pipelines, for every kind of Wan."""

import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline, WanPipeline
from PIL import Image

from ray_distill.data.read.transform import to_pixels
from ray_distill.diffusion.samplers import by_level, sample
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.wan import conditions
from ray_distill.models.wan.codec import WanVAE
from ray_distill.models.wan.conditions import latent_mask
from ray_distill.models.wan.image import WanImageEncoder
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.types import Cache, Experts, Sampler

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import tiny_wan

TIMES = (1000.0, 937.5, 900.0, 625.0)
FRAMES, HEIGHT, WIDTH = 9, 64, 96
FIELDS = {"2.1_i2v": ("held", "image"), "2.2_5b": ("first",), "2.2_a14b_i2v": ("held",)}


class Wan:
    """The networks, codec and image encoder of one kind, and a picture with its conditions; random."""

    def __init__(self, name: str) -> None:
        kind = self.kind = tiny_wan.KINDS[name]
        self.vae = tiny_wan.make_vae(0, kind.channels).eval()
        torch.manual_seed(1)
        self.networks = [tiny_wan.make_transformer(kind).eval() for _ in range(2 if kind.boundary else 1)]
        self.text = torch.randn(1, 512, tiny_wan.TEXT_DIM)
        self.clip = tiny_wan.make_clip() if kind.clip else {}
        fields = FIELDS.get(name, ())
        self.picture = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        pixels = to_pixels(np.stack([self.picture] * FRAMES))[None]
        encoder = WanImageEncoder(
            WanVAE(self.vae), fields, self.clip.get("image_encoder"), self.clip.get("image_processor")
        )
        row = encoder.encode(pixels)[0] if fields else {}
        self.cond = {"text": self.text, **{name: value[None] for name, value in row.items()}}
        self.shape = (1, *WanVAE(self.vae).latent_shape(FRAMES, HEIGHT, WIDTH))

    def pipeline(self, cls, scheduler):
        scheduler.set_timesteps = partial(
            scheduler.set_timesteps, timesteps=list(TIMES), sigmas=[t / 1000 for t in TIMES]
        )
        two = {"transformer_2": self.networks[1], "boundary_ratio": self.kind.boundary} if self.kind.boundary else {}
        pipeline = cls(
            tokenizer=None,
            text_encoder=None,
            vae=self.vae,
            scheduler=scheduler,
            transformer=self.networks[0],
            expand_timesteps=self.kind.levels_by_token,
            **two,
            **self.clip,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def theirs(self, from_image: bool):
        cls = WanImageToVideoPipeline if from_image else WanPipeline
        call = {"prompt_embeds": self.text, "height": HEIGHT, "width": WIDTH, "num_frames": FRAMES}
        call |= {"image": Image.fromarray(self.picture)} if from_image else {}
        torch.manual_seed(1)
        pipeline = self.pipeline(cls, FlowMatchEulerDiscreteScheduler(shift=1.0))
        return pipeline(**call, num_inference_steps=len(TIMES), guidance_scale=1.0, output_type="latent").frames

    def denoiser(self):
        networks = {name: WanDenoiser(n) for name, n in zip(("high", "low"), self.networks, strict=False)}
        boundary = self.kind.boundary
        return by_level(Experts("high", "low", 1000 * boundary), networks) if boundary else networks["high"]

    def ours(self, cond=None):
        torch.manual_seed(1)
        x_T = torch.randn(self.shape)
        return sample(self.denoiser(), Sampler(TIMES, "ode"), x_T, cond or self.cond, noise=lambda i: x_T)


@pytest.fixture(scope="module", params=FIELDS)
def wan(request):
    return Wan(request.param)


def gap(a, b):
    return (a - b).abs().max().item()


def test_we_sample_from_an_image_as_the_pipeline_does(wan):
    """Image conditions, mask, levels by token and the boundary of two experts, over a whole sampling."""
    assert gap(wan.ours(), wan.theirs(from_image=True)) < 1e-5


@pytest.mark.parametrize("name", ["2.1_t2v", "2.2_5b", "2.2_a14b_t2v"])
def test_we_sample_from_text_as_the_pipeline_does(name):
    """Wan 2.2 5B gives each token the level of the clip, which is one number to us."""
    wan = Wan(name)
    assert gap(wan.ours({"text": wan.text}), wan.theirs(from_image=False)) < 1e-5


def test_a_planted_fault_is_seen(wan, monkeypatch):
    """The mask before the noisy channels, text of 256 tokens, or one level for all tokens: another video."""
    theirs, enter = wan.theirs(from_image=True), conditions.enter
    cond, patched = wan.cond, None
    if "image" in cond:
        cond = {**cond, "text": cond["text"][:, :256]}
    elif "held" in cond:

        def patched(x_t, *rest):
            x, sigma = enter(x_t, *rest)
            return torch.cat([x[:, 16:20], x[:, :16], x[:, 20:]], dim=1), sigma
    else:

        def patched(x_t, sigma, *rest):
            return enter(x_t, sigma, *rest)[0], sigma

    if patched is not None:
        monkeypatch.setattr("ray_distill.models.wan.network.enter", patched)
    assert gap(wan.ours(cond), theirs) > 1e-3


def test_the_mask_of_81_frames_counts_the_first_four_times():
    """Oracle 36. [4, 21]: ones in the first column; with a last image also in the last channel of the last column."""
    known = torch.zeros(81)
    known[0] = 1
    mask = latent_mask(known)
    assert mask.shape == (4, 21) and mask[:, 0].tolist() == [1, 1, 1, 1] and mask.sum() == 4
    known[80] = 1
    assert (latent_mask(known) - mask).nonzero().tolist() == [[3, 20]]


def test_tokens_of_a_frame_of_the_5b():
    """Oracle 36: 390 at 480 x 832, 880 at 704 x 1280."""
    pipeline = Pipeline("wan", Path("none/Wan2.2-TI2V-5B-Diffusers"))
    for size, tokens in (((480, 832), 390), ((704, 1280), 880)):
        (_, _, *latent), patch = pipeline.latent_shape(1, *size), pipeline.of.patch(pipeline.architecture)
        assert math.prod(side // of for side, of in zip(latent, patch, strict=True)) == tokens


def test_another_image_makes_another_video_and_the_first_frame_is_the_image(wan):
    other = {name: value if name == "text" else value + 1 for name, value in wan.cond.items()}
    made = wan.ours()
    assert gap(made, wan.ours(other)) > 1e-2
    if "first" in wan.cond:
        assert gap(made[:, :, 0], wan.cond["first"]) < 1e-5


def test_the_first_frame_of_a_clip_is_encoded_as_its_own_picture(wan):
    """So that training needs no stored condition where the first latent frame is the image."""
    pixels = torch.rand(1, 3, 5, HEIGHT, WIDTH) * 2 - 1
    codec = WanVAE(wan.vae)
    torch.testing.assert_close(codec.encode(pixels)[:, :, :1], codec.encode(pixels[:, :, :1]), atol=1e-5, rtol=0)


def test_the_given_frame_has_level_0_and_gives_and_gets_no_gradient():
    wan = Wan("2.2_5b")
    seen = {}
    network, denoiser = wan.networks[0], WanDenoiser(wan.networks[0])
    handle = network.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
    x_t = torch.randn(wan.shape, requires_grad=True)
    sigma = torch.tensor([0.7])
    x_0 = x_t - 0.7 * denoiser(x_t, sigma, wan.cond).velocity
    handle.remove()
    tokens = (HEIGHT // 32) * (WIDTH // 32)
    assert seen["timestep"][0, :tokens].eq(0).all() and seen["timestep"][0, tokens:].sub(700).abs().max() < 1e-3
    assert torch.equal(seen["hidden_states"][:, :, 0], wan.cond["first"])
    (gradient,) = torch.autograd.grad(x_0.square().sum(), x_t)
    assert gradient[:, :, 0].abs().max() < 1e-6 < gradient[:, :, 1:].abs().max()
    assert gap(x_0[:, :, 0], wan.cond["first"]) < 1e-6
    clean = denoiser(wan.cond["first"][:, :, None], torch.zeros(1), wan.cond).velocity
    assert torch.equal(clean, torch.zeros_like(clean))  # at level 0 nothing is divided by 0


def test_a_sample_does_not_see_its_batch(wan):
    denoiser, sigma = WanDenoiser(wan.networks[0]), torch.tensor([0.9, 0.3])
    x_t = torch.randn(2, *wan.shape[1:])
    cond = {name: torch.cat([value, value.flip(-1)]) for name, value in wan.cond.items()}
    with torch.no_grad():
        both = denoiser(x_t, sigma, cond).velocity
        alone = denoiser(x_t[1:], sigma[1:], {name: value[1:] for name, value in cond.items()}).velocity
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=0)


def test_a_chunk_takes_its_own_part_of_the_image_s_latents(wan):
    """A causal call on later frames sees the mask and the latents of these frames, and no first frame."""
    seen = {}
    network = wan.networks[0]
    handle = network.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
    denoiser, cache, x = WanDenoiser(network), Cache(), torch.randn(wan.shape)
    with torch.no_grad():
        denoiser(x[:, :, :1], torch.zeros(1), wan.cond, cache=cache, remember=True)
        denoiser(x[:, :, 1:], torch.tensor([0.5]), wan.cond, cache=cache)
    handle.remove()
    assert torch.equal(seen["hidden_states"][:, : wan.shape[1]], x[:, :, 1:]) and seen["timestep"].shape == (1,)
    if "held" in wan.cond:
        assert torch.equal(seen["hidden_states"][:, 20:], wan.cond["held"][:, :, 1:])
        assert not seen["hidden_states"][:, 16:20].any()
