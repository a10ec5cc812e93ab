"""Files by the original code's names: diffusers' own loaders read each layer back, with its scale or its rounding."""

import inspect
from dataclasses import replace

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTXPipeline,
    WanImageToVideoPipeline,
    WanPipeline,
)
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from ray_distill.config import ConfigError
from ray_distill.export.original import COMFYUI, comfyui_tensors, original_name, save_adapter, save_original
from ray_distill.models import FAMILIES, family
from ray_distill.models.lora import LoRA
from ray_distill.train.driver.checks.pipeline import check_formats
from tests.tiny_wan import tiny_wan
from tests.two_experts import PARTS
from tests.unit.toys import run_config

WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 36,
    "out_channels": 16,
    "text_dim": 8,
    "freq_dim": 8,
    "ffn_dim": 16,
    "num_layers": 2,
    "image_dim": 8,
    "added_kv_proj_dim": 24,
}
LTX = {
    "in_channels": 8,
    "out_channels": 8,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 16,
    "num_layers": 2,
    "caption_channels": 8,
}
LTX2 = LTX | {
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "audio_in_channels": 8,
    "audio_out_channels": 8,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 8,
    "audio_cross_attention_dim": 16,
    "caption_channels": 16,
}
TINY = {"wan": (WanImageToVideoPipeline, WAN), "ltx": (LTXPipeline, LTX), "ltx2": (LTX2Pipeline, LTX2)}
LORA = LoRA(rank=2, alpha=3)


def named(name, network):
    """(linear layers that have a name in ComfyUI, the other linear layers)."""
    layers = [layer for layer, module in network.named_modules() if isinstance(module, nn.Linear)]
    known = [layer for layer in layers if any(f".{ours}." in f".{layer}." for ours in family(name).original)]
    return known, sorted(set(layers) - set(known))


def random_adapter(network, layers):
    torch.manual_seed(1)
    tensors = {}
    for layer in layers:
        out, width = network.get_submodule(layer).weight.shape
        tensors[f"{layer}.lora_A.weight"] = torch.randn(LORA.rank, width)
        tensors[f"{layer}.lora_B.weight"] = torch.randn(out, LORA.rank)
    return tensors


def pipeline_of(kind, network):
    """A pipeline of ``kind`` with only a transformer."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    needed = [each.name for each in parameters if each.default is each.empty and each.name != "self"]
    return kind(**dict.fromkeys(needed) | {"transformer": network})


@pytest.mark.parametrize("name", FAMILIES)
def test_diffusers_reads_every_named_layer_back_with_its_scale(tmp_path, name):
    if family(name).original is None:
        pytest.skip(f"{name} declares no names")
    kind, sizes = TINY[name]
    network = family(name).transformer(**sizes)
    layers, _ = named(name, network)
    tensors = random_adapter(network, layers)
    save_adapter(tmp_path / "lora.safetensors", "comfyui_lora", family(name), LORA, tensors)
    assert all(key.startswith(f"{COMFYUI}.") for key in load_file(tmp_path / "lora.safetensors"))
    pipeline_of(kind, network).load_lora_weights(tmp_path, weight_name="lora.safetensors")
    loaded = get_peft_model_state_dict(network, adapter_name="default_0")
    assert loaded.keys() == tensors.keys()
    for layer in layers:
        factor = network.get_submodule(layer).scaling["default_0"]
        delta = factor * loaded[f"{layer}.lora_B.weight"] @ loaded[f"{layer}.lora_A.weight"]
        expected = 1.5 * tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
        torch.testing.assert_close(delta, expected, atol=1e-6, rtol=1e-6)


def test_a_layer_without_an_original_name_is_refused():
    network = family("ltx").transformer(**LTX)
    _, others = named("ltx", network)
    assert "proj_in" in others
    with pytest.raises(ValueError, match="model.export_formats: 'proj_in' has no name in the network's original code"):
        comfyui_tensors(family("ltx"), LORA, random_adapter(network, ["proj_in"]))
    with pytest.raises(ValueError, match="'to_q' has no name"):
        original_name("to_q", replace(family("ltx"), original=None))


def test_check_refuses_what_cannot_be_written(tmp_path):
    pipeline = WanPipeline(**PARTS, scheduler=FlowMatchEulerDiscreteScheduler(), transformer=tiny_wan(1))
    pipeline.save_pretrained(tmp_path / "model")
    optimizer = {"optimizer": {"learning_rate": 1e-3}}
    asked = {"model__export_formats": ["comfyui_lora"]}
    check_formats(run_config(tmp_path, roles__student=optimizer | {"lora": {"rank": 2}}, **asked))
    with pytest.raises(
        ConfigError, match="comfyui_lora needs an adapter, and the export of student has none; give roles.student.lora"
    ):
        check_formats(run_config(tmp_path, **asked))
    with pytest.raises(ConfigError, match="without whole"):
        whole = {"lora": {"rank": 2, "whole": ["proj_out"]}}
        check_formats(run_config(tmp_path, roles__student=optimizer | whole, **asked))


def test_check_asks_for_an_adapter_only_where_a_format_is_one(tmp_path):
    pipeline = WanPipeline(**PARTS, scheduler=FlowMatchEulerDiscreteScheduler(), transformer=tiny_wan(1))
    pipeline.save_pretrained(tmp_path / "model")
    check_formats(run_config(tmp_path, model__export_formats=["original_float32", "original_float8"]))
    with pytest.raises(ConfigError, match="kohya_lora needs an adapter"):
        check_formats(run_config(tmp_path, model__export_formats=["original_float32", "kohya_lora"]))


def test_check_says_what_a_family_or_a_full_student_has_no_names_for(tmp_path):
    family("ltx").transformer(**LTX).save_pretrained(tmp_path / "model/transformer")
    ltx = {"model__family": "ltx", "roles__student__optimizer": {"learning_rate": 1e-3}}
    with pytest.raises(ConfigError, match="'ltx' declares none for a whole network; remove original_float32"):
        check_formats(run_config(tmp_path, model__export_formats=["original_float32"], **ltx))
    adapters = {"model__export_formats": ["comfyui_lora"]}
    with pytest.raises(ValueError, match="'proj_in' has no name .*; the adapter of model.export_lora_rank has every"):
        check_formats(run_config(tmp_path, model__export_lora_rank=2, **adapters, **ltx))
    check_formats(run_config(tmp_path, roles__student__lora={"rank": 2}, **adapters, **ltx))
    lora = {"roles__student__lora": {"rank": 2}, "model__family": "cogvideox"}
    with pytest.raises(ConfigError, match="'cogvideox' declares none for layers; remove comfyui_lora"):
        check_formats(run_config(tmp_path, **adapters, **ltx | lora))


def test_diffusers_reads_an_adapter_by_kohyas_names_with_its_scale(tmp_path):
    network = family("wan").transformer(**WAN)
    layers, _ = named("wan", network)
    tensors = random_adapter(network, [layer for layer in layers if layer.startswith("blocks.")])
    save_adapter(tmp_path / "lora.safetensors", "kohya_lora", family("wan"), LORA, tensors)
    assert "lora_unet_blocks_1_cross_attn_k_img.lora_down.weight" in load_file(tmp_path / "lora.safetensors")
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        numbers = {"ss_network_dim": str(LORA.rank), "ss_network_alpha": f"{LORA.alpha}", "family": "wan"}
        assert numbers.items() <= file.metadata().items()
    assert (tmp_path / "lora.safetensors").stat().st_mode & 0o777 == tmp_path.stat().st_mode & 0o666
    pipeline_of(WanImageToVideoPipeline, network).load_lora_weights(tmp_path, weight_name="lora.safetensors")
    loaded = get_peft_model_state_dict(network, adapter_name="default_0")
    assert loaded.keys() == tensors.keys()
    for layer in {key.partition(".lora_")[0] for key in tensors}:
        factor = network.get_submodule(layer).scaling["default_0"]
        delta = factor * loaded[f"{layer}.lora_B.weight"] @ loaded[f"{layer}.lora_A.weight"]
        expected = 1.5 * tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
        torch.testing.assert_close(delta, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float8", None)]
)
def test_diffusers_reads_the_whole_network_by_its_original_names(tmp_path, kind, dtype):
    """Each weight comes back under its own name, equal to the rounded one; float8 rounds the blocks' matrices alone."""
    network = family("wan").transformer(**WAN)
    save_original(tmp_path / "whole.safetensors", f"original_{kind}", family("wan"), network, None)
    stored = load_file(tmp_path / "whole.safetensors")
    assert {"head.modulation", "blocks.1.modulation", "blocks.0.norm3.weight", "img_emb.proj.4.bias"} <= stored.keys()
    read = convert_wan_transformer_to_diffusers(dict(stored))
    assert read.keys() == network.state_dict().keys()
    for name, weight in network.state_dict().items():
        in_block = name.startswith("blocks.") and name.endswith(".weight") and weight.ndim == 2
        expected = dtype or (torch.float8_e4m3fn if in_block else torch.bfloat16)
        assert read[name].dtype == expected and torch.equal(read[name].float(), weight.to(expected).float())


def test_a_weight_beyond_float8_is_refused(tmp_path):
    network = family("wan").transformer(**WAN)
    with torch.no_grad():
        network.blocks[0].attn1.to_q.weight[0, 0] = 449
    with pytest.raises(ValueError, match=r"blocks\.0\.attn1\.to_q\.weight has a weight of 449, and float8 ends at 448"):
        save_original(tmp_path / "whole.safetensors", "original_float8", family("wan"), network, None)


def test_a_family_without_names_for_the_rest_has_no_whole_file(tmp_path):
    with pytest.raises(ValueError, match="has no name in the network's original code; remove the key"):
        save_original(
            tmp_path / "x.safetensors", "original_float32", family("ltx"), family("ltx").transformer(**LTX), None
        )
