"""The tiny Wan is a whole pipeline: our loaders and diffusers' own take it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel
from PIL import Image

from ray_distill.data.read.clip import Cut
from ray_distill.data.read.video import read_clip
from ray_distill.models import family
from ray_distill.models.codec import load_codec
from ray_distill.models.conditions import collate
from ray_distill.models.loading import load_transformer
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.wan.text import wan_text

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import tiny_wan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_wan")
    tiny_wan.main([str(folder), "--clips", "3"])
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory, folder):
    """Every kind of pipeline by its name."""
    home = tmp_path_factory.mktemp("tiny_wans")
    for kind in tiny_wan.KINDS:
        if kind != "2.1_t2v":
            tiny_wan.main([str(home / kind), "--kind", kind])
    return {kind: folder if kind == "2.1_t2v" else home / kind for kind in tiny_wan.KINDS}


def test_it_is_a_few_megabytes(folder):
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 5e6


def test_our_loaders_take_it_from_pixels_and_prompt_to_a_velocity(folder):
    codec = load_codec(folder / "vae")
    frames = read_clip(str(folder / "clips" / "00000.mp4"), Cut(9)).frames
    x_0 = codec.encode(torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1)
    assert x_0.shape == (1, *codec.latent_shape(9, 48, 80)) == (1, 16, 3, 6, 10)
    assert 0.3 < x_0.std() < 3  # about unit variance, as of a real VAE
    assert codec.decode(x_0).shape == (1, 3, 9, 48, 80)
    cond = collate(wan_text(folder, 64).encode(["a red square"]), Pipeline("wan", folder).fields(64))
    denoise = family("wan").denoiser(load_transformer("wan", folder))
    v = denoise(x_0, torch.tensor([0.7]), cond).velocity
    assert v.shape == x_0.shape and v.isfinite().all() and v.abs().max() > 0


def test_no_prompt_of_any_language_is_unknown(folder):
    prompts = ["a red square moving left", "a red square moving right", "静态，细节模糊不清", ""]
    tokenizer = wan_text(folder, 64).tokenizer
    tokens = [tokenizer(prompt).input_ids for prompt in prompts]
    assert all(ids[-1] == tokenizer.eos_token_id and tokenizer.unk_token_id not in ids for ids in tokens)
    assert len(tokens[2]) == len(prompts[2].encode()) + 1
    text = collate(wan_text(folder, 64).encode(prompts), Pipeline("wan", folder).fields(64))["text"]
    assert all((text[i] - text[j]).abs().max() > 1e-3 for i in range(4) for j in range(i))


def test_diffusers_alone_samples_it(folder):
    pipeline = WanPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline("a blue square", height=48, width=80, num_frames=9, num_inference_steps=2, output_type="np")
    assert made.frames.shape == (1, 9, 48, 80, 3) and np.isfinite(made.frames).all()


@pytest.mark.parametrize("kind", tiny_wan.KINDS)
def test_diffusers_alone_samples_every_kind(folders, kind):
    """Each kind is a few MB, and its pipeline makes a video; from an image, another image makes another video."""
    assert sum(path.stat().st_size for path in folders[kind].rglob("*") if path.is_file()) < 6e6
    published = tiny_wan.KINDS[kind]
    image_too = published.from_image or published.levels_by_token
    pipeline = (WanImageToVideoPipeline if image_too else WanPipeline).from_pretrained(
        folders[kind], local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": 64, "width": 96, "num_frames": 5}

    def sample(**more):
        torch.manual_seed(0)
        return pipeline(prompt="a square", num_inference_steps=2, output_type="np", **size, **more).frames

    images = [Image.new("RGB", (96, 64), colour) for colour in ("red", "blue")] if image_too else []
    videos = [sample(image=image) for image in images] or [sample()]
    assert all(video.shape == (1, 5, 64, 96, 3) and np.isfinite(video).all() for video in videos)
    assert not image_too or np.abs(videos[0] - videos[1]).max() > 1e-2


def test_two_experts_differ_and_their_boundary_is_the_published_one(folders):
    for kind, boundary in (("2.2_a14b_t2v", 0.875), ("2.2_a14b_i2v", 0.9)):
        assert json.loads((folders[kind] / "model_index.json").read_text())["boundary_ratio"] == boundary
        high, low = (
            WanTransformer3DModel.from_pretrained(folders[kind], subfolder=part)
            for part in ("transformer", "transformer_2")
        )
        assert high.config.in_channels == (36 if "i2v" in kind else 16)
        assert not torch.equal(high.proj_out.weight, low.proj_out.weight)


def test_clips_are_of_two_shapes_with_captions_beside_them(folder):
    rows = [json.loads(line) for line in (folder / "clips" / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and len({row["caption"] for row in rows}) == 3
    for row, shape in zip(rows, [(48, 80), (80, 48), (48, 80)], strict=True):
        video = folder / "clips" / row["video"]
        assert video.with_suffix(".txt").read_text().strip() == row["caption"]
        assert read_clip(str(video), Cut(25)).frames.shape == (25, *shape, 3)
