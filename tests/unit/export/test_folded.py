"""An exported adapter of a student on a merged base holds the merged LoRA: it fits the published network."""

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from safetensors.torch import save_file

from ray_distill.checkpoint.network import load_network
from ray_distill.config import RunConfig
from ray_distill.export.card import ADAPTER
from ray_distill.export.folded import folded
from ray_distill.export.student import export
from ray_distill.models.lora import LoRA
from tests.unit.export.test_adapter import SHAPE, run, velocity  # noqa: F401

LAYERS = {"blocks.0.attn1.to_q": "blocks_0_self_attn_q", "blocks.1.attn2.to_k": "blocks_1_cross_attn_k"}
"""The student's adapter has the first, and not the second."""


@pytest.fixture
def styled(run, tmp_path):  # noqa: F811
    """(a configuration with a LoRA of rank 3 and alpha 6, its checkpoint)."""
    torch.manual_seed(2)
    tensors = {}
    for name in LAYERS.values():
        tensors[f"lora_unet_{name}.lora_down.weight"] = torch.randn(3, 24)
        tensors[f"lora_unet_{name}.lora_up.weight"] = torch.randn(24, 3)
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(6.0)
    save_file(tensors, tmp_path / "ink.safetensors")
    config, folder, _ = run
    tree = config.dump()
    tree["model"]["loras"] = [{"path": str(tmp_path / "ink.safetensors"), "weight": 0.5}]
    return RunConfig.model_validate(tree), folder


def test_the_adapter_of_an_export_fits_the_published_network(styled, tmp_path):
    config, folder = styled
    student = velocity(load_network(config, "student", folder))
    out = export(config, folder, SHAPE, folder=tmp_path / "out")
    whole = WanTransformer3DModel.from_pretrained(out / "transformer")
    assert (velocity(whole) - student).abs().max() < 1e-5
    pipe = WanPipeline.from_pretrained(config.model.path, vae=None, text_encoder=None, tokenizer=None)
    published = velocity(pipe.transformer)
    pipe.load_lora_weights(out, weight_name=ADAPTER)
    assert (velocity(pipe.transformer) - student).abs().max() < 1e-4 < (published - student).abs().max()
    card = (out / "README.md").read_text()
    assert "LoRA merged into the teacher, and inside every file of this student: `ink.safetensors`: weight 0.5" in card
    assert "an adapter of rank 7" in card


def test_a_cut_adapter_fits_the_published_network_too(styled, tmp_path):
    config, folder = styled
    model = config.model.model_copy(update={"export_lora_rank": 7})
    out = export(config.model_copy(update={"model": model}), folder, SHAPE, folder=tmp_path / "out")
    fresh = WanTransformer3DModel.from_pretrained(config.model.path / "transformer")
    fresh.load_lora_adapter(out, prefix="transformer", weight_name=ADAPTER)
    assert (velocity(fresh) - velocity(load_network(config, "student", folder))).abs().max() < 1e-4


def test_without_merged_files_an_adapter_is_itself_up_to_its_factor():
    lora, tensors = LoRA(rank=2, alpha=3), {"x.lora_A.weight": torch.randn(2, 4), "x.lora_B.weight": torch.randn(5, 2)}
    own, same = folded(lora, tensors, [])
    assert (own.rank, own.targets) == (2, ("x",))
    product = same["x.lora_B.weight"] @ same["x.lora_A.weight"]
    assert torch.allclose(product, 1.5 * tensors["x.lora_B.weight"] @ tensors["x.lora_A.weight"])
