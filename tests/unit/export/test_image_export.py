"""Students from images: diffusers alone replays them from a picture, and loads them as adapters."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel
from PIL import ExifTags, Image

from ray_distill.data.read.picture import read_picture
from ray_distill.data.read.transform import resize
from ray_distill.export.base import check_base
from ray_distill.export.checks import check_recipe
from ray_distill.export.diffusers import export_student
from ray_distill.export.verify import verify
from ray_distill.models.codec import load_codec
from ray_distill.models.hunyuan15 import sample as hunyuan15
from ray_distill.models.lora import LoRA
from ray_distill.models.ltx2 import sample as ltx2
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.wan import sample_image as wan
from ray_distill.types import Chunks, Experts, Sampler, Window
from tests.own_codec import with_codec

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import tiny_wan

SDE = Sampler((1000.0, 757.0, 522.0), "sde")
GUIDED = Sampler((1000.0, 900.0, 500.0), "ode", guidance_scale=2.0)
EXPERTS = Sampler((1000.0, 930.0, 900.0, 500.0), "ode", experts=Experts("student", "student_low", 915.0))


@pytest.mark.parametrize("fit", [hunyuan15.fit, ltx2.fit, wan.fit])
def test_scripts_turn_and_cut_a_picture_as_training_does(tmp_path, fit):
    """A photograph that lies on its side: its Exif says so."""
    pixels = np.random.default_rng(1).integers(0, 256, (130, 70, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "p.png", exif=exif)
    ours = resize(read_picture(str(tmp_path / "p.png"), 10**6)[None], 64, 96)[0]
    assert np.array_equal(np.array(fit(Image.open(tmp_path / "p.png"), 64, 96)), ours)
    assert not np.array_equal(np.array(fit(Image.fromarray(pixels), 64, 96)), ours)


def base_of(home: Path, kind: str) -> Path:
    folder = home / kind
    if not folder.is_dir():
        tiny_wan.main([str(folder), "--kind", kind])
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


def student_of(base: Path, seed: int = 5):
    """Another network of the base's architecture, with weights that read text, level and image."""
    torch.manual_seed(seed)
    network = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(base / "transformer")).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return network


def export(folder: Path, base: Path, sampler: Sampler = SDE, from_image: bool = True, **more) -> Path:
    size = {"frames": 5, "height": 64, "width": 96}
    if sampler.experts:
        more["low"] = student_of(base, 6)
    return export_student(
        folder,
        more.pop("network", None) or student_of(base),
        base,
        sampler,
        load_codec(base / "vae").latent_shape(*size.values()),
        **size,
        fps=8,
        max_sequence_length=512,
        card={},
        from_image=from_image,
        **more,
    )


@pytest.mark.parametrize(
    ("kind", "sampler", "from_image"),
    [
        ("2.1_i2v", SDE, True),
        pytest.param("2.2_5b", GUIDED, True, marks=pytest.mark.slow),
        pytest.param("2.1_i2v", GUIDED, True, marks=pytest.mark.slow),
        pytest.param("2.2_5b", SDE, True, marks=pytest.mark.slow),
        pytest.param("2.2_a14b_i2v", EXPERTS, True, marks=pytest.mark.slow),
        pytest.param("2.2_5b", GUIDED, False, marks=pytest.mark.slow),
        pytest.param("2.2_5b", EXPERTS, True, marks=pytest.mark.slow),
    ],
)
def test_diffusers_reproduces_our_sampler_from_a_picture(tmp_path, home, kind, sampler, from_image, scripts_in_process):
    """A picture of another size than the video: both cut it the same way. Guidance keeps it in both branches."""
    folder = export(tmp_path / "student", base_of(home, kind), sampler, from_image)
    assert verify(folder, "a red square moving left") < 1e-4
    card = (folder / "README.md").read_text()
    assert ("pipeline_tag: image-to-video" in card) == ("first_frame.png" in card) == from_image
    assert json.loads((folder / "recipe.json").read_text())["from_image"] is from_image


def test_two_experts_leave_with_the_base_s_own_levels_by_token(tmp_path, home):
    """So that diffusers alone gives the picture's frame level 0, in the folder that has no base beside it."""
    folder = export(tmp_path / "student", base_of(home, "2.2_5b"), EXPERTS)
    index = json.loads((folder / "model_index.json").read_text())
    assert (index["expand_timesteps"], index["boundary_ratio"]) == (True, 0.915)


@pytest.mark.parametrize(
    ("kind", "sampler"),
    [("2.2_5b", GUIDED), pytest.param("2.2_a14b_i2v", EXPERTS, marks=pytest.mark.slow)],
)
def test_a_codec_that_diffusers_does_not_know_gives_its_latents_to_the_script(
    tmp_path, home, kind, sampler, scripts_in_process
):
    """As the first latent frame, and as those of a clip that is the picture and then mid-grey."""
    base = with_codec(tmp_path / "base", base_of(home, kind))
    if kind == "2.2_5b":
        check_base(Pipeline("wan", base, from_image=True))
    folder = export(tmp_path / "student", base, sampler)
    assert verify(folder, "a red square moving left") < 1e-4
    assert "in the place of `first_frame.png`" in (folder / "README.md").read_text()


def test_a_picture_s_other_encoder_needs_a_vae_of_diffusers(tmp_path, home):
    base = with_codec(tmp_path / "base", base_of(home, "2.1_i2v"))
    with pytest.raises(ValueError, match="its vae is a CausalPatchPCA, .* its image_encoder needs the picture"):
        check_base(Pipeline("wan", base))


@pytest.mark.parametrize("kind", ["2.1_i2v", pytest.param("2.2_5b", marks=pytest.mark.slow)])
def test_an_adapter_loads_into_the_pipeline(tmp_path, home, kind):
    base, lora = base_of(home, kind), LoRA(rank=2, alpha=4)
    network = student_of(base)
    names = [f"blocks.{i}.attn2.{layer}" for i in range(3) for layer in ("to_q", "to_k")]
    tensors = {}
    for name in names:
        out, width = network.get_submodule(name).weight.shape
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = torch.randn(2, width), torch.randn(out, 2)
    folder = export(tmp_path / "student", base, network=network, adapter=(lora, tensors))
    pipeline = WanImageToVideoPipeline.from_pretrained(base, local_files_only=True)
    before = pipeline.transformer.blocks[0].attn2.to_q(torch.ones(1, 96))
    pipeline.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors", local_files_only=True)
    after = pipeline.transformer.blocks[0].attn2.to_q(torch.ones(1, 96))
    a, b = (tensors[f"{names[0]}.lora_{side}.weight"] for side in "AB")
    torch.testing.assert_close(after - before, 2 * torch.ones(1, 96) @ a.T @ b.T, atol=1e-4, rtol=1e-4)


def test_a_base_that_lacks_the_image_s_parts_is_refused(tmp_path, home):
    base = base_of(home, "2.1_i2v")
    index = json.loads((base / "model_index.json").read_text())
    other = tmp_path / "base"
    other.mkdir()
    for part in base.iterdir():
        if part.name != "model_index.json":
            (other / part.name).symlink_to(part)
    (other / "model_index.json").write_text(json.dumps(index | {"image_encoder": [None, None]}))
    check_base(Pipeline("wan", base))
    with pytest.raises(ValueError, match="names no image_encoder, and a student from images needs it"):
        check_base(Pipeline("wan", other))


CHUNKS = {
    "2.2_5b": Sampler((1000.0, 757.0), "sde", chunks=Chunks(1, context_timestep=50.0, window=Window(2))),
    "2.1_i2v": Sampler((1000.0, 500.0), "ode", guidance_scale=2.0, chunks=Chunks(1)),
}


@pytest.mark.parametrize("kind", CHUNKS)
def test_a_causal_student_is_sampled_from_a_picture_by_chunks(tmp_path, home, kind, scripts_in_process):
    """As our sampler does it, with the picture as the first chunk at level 0, or beside each frame."""
    folder = export(tmp_path / "student", base_of(home, kind), CHUNKS[kind])
    assert verify(folder, "a red square moving left") < 1e-4
    assert "`WanImageToVideoPipeline` would show each frame" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_a_causal_student_of_a_codec_of_ours_takes_its_latents(tmp_path, home):
    folder = export(tmp_path / "student", with_codec(tmp_path / "base", base_of(home, "2.2_5b")), CHUNKS["2.2_5b"])
    assert verify(folder, "a red square moving left") < 1e-4


def test_no_script_samples_two_experts_by_chunks(home):
    pipeline = Pipeline("wan", base_of(home, "2.1_i2v"))
    with pytest.raises(ValueError, match="a causal student with two experts"):
        check_recipe(replace(EXPERTS, chunks=Chunks(3)), pipeline.of.leaves(pipeline.fields(512)))
