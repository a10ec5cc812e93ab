"""Students from images: diffusers alone replays them from a picture, and loads them as adapters."""

import json
import sys
from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel

from ray_distill.export.base import check_base
from ray_distill.export.diffusers import check_recipe, export_student
from ray_distill.export.verify import verify
from ray_distill.models.lora import LoRA
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.wan.codec import WanVAE
from ray_distill.types import Chunks, Sampler

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import tiny_wan

SDE = Sampler((1000.0, 757.0, 522.0), "sde")
GUIDED = Sampler((1000.0, 900.0, 500.0), "ode", guidance_scale=2.0)


def base_of(home: Path, kind: str) -> Path:
    folder = home / kind
    if not folder.is_dir():
        tiny_wan.main([str(folder), "--kind", kind])
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


def student_of(base: Path, **more):
    """Another network of the base's architecture, with weights that read text, level and image."""
    torch.manual_seed(5)
    network = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(base / "transformer")).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return network


def export(folder: Path, base: Path, sampler: Sampler = SDE, from_image: bool = True, **more) -> Path:
    size = {"frames": 5, "height": 64, "width": 96}
    return export_student(
        folder,
        more.pop("network", None) or student_of(base),
        base,
        sampler,
        WanVAE.load(base / "vae").latent_shape(*size.values()),
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
        pytest.param("2.2_5b", GUIDED, False, marks=pytest.mark.slow),
    ],
)
def test_diffusers_reproduces_our_sampler_from_a_picture(tmp_path, home, kind, sampler, from_image):
    """A picture of another size than the video: both cut it the same way. Guidance keeps it in both branches."""
    folder = export(tmp_path / "student", base_of(home, kind), sampler, from_image)
    assert verify(folder, "a red square moving left") < 1e-4
    card = (folder / "README.md").read_text()
    assert ("pipeline_tag: image-to-video" in card) == ("first_frame.png" in card) == from_image
    assert json.loads((folder / "recipe.json").read_text())["from_image"] is from_image


def test_an_adapter_loads_into_the_pipeline(tmp_path, home):
    base, lora = base_of(home, "2.1_i2v"), LoRA(rank=2, alpha=4)
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


def test_no_script_samples_chunks_from_an_image(home):
    pipeline = Pipeline("wan", base_of(home, "2.1_i2v"))
    with pytest.raises(ValueError, match="WanImageToVideoPipeline samples no chunks"):
        check_recipe(Sampler((1000.0,), "sde", chunks=Chunks(3)), pipeline.of.leaves(pipeline.fields(512)))
