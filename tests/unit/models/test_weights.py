"""Weights in shards and in single files, and messages for missing weights and those of another network."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import LTXVideoTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import nn

from ray_distill.models.hashing import weights_hash
from ray_distill.models.loading import check_folder, check_weights, hollow_transformer, load_transformer
from ray_distill.models.outlines import shapes_of
from ray_distill.models.wan.family import FAMILY
from ray_distill.models.weights import INDEX, SINGLE, Weights
from tests.tiny_wan import tiny_wan

# Wan's own names of what diffusers renames, longest first.
ORIGINAL = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_out.0": "cross_attn.o",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm_",
    "norm3": "norm2",
    "norm_.": "norm3.",
}


def original(name):
    if name == "scale_shift_table":
        return "head.modulation"
    for ours, theirs in ORIGINAL.items():
        name = name.replace(ours, theirs)
    for part in ("q", "k", "v"):
        name = name.replace(f"attn1.to_{part}.", f"self_attn.{part}.").replace(
            f"attn2.to_{part}.", f"cross_attn.{part}."
        )
        name = name.replace(f"attn1.norm_{part}.", f"self_attn.norm_{part}.")
        name = name.replace(f"attn2.norm_{part}.", f"cross_attn.norm_{part}.")
    return name.replace("proj_out", "head.head").replace("scale_shift_table", "modulation")


@pytest.fixture
def folder(tmp_path):
    tiny_wan(0).save_pretrained(tmp_path / "model/transformer", max_shard_size="20KB")
    return tmp_path / "model"


def same(a, b):
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_shards_are_read_by_their_index(folder):
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 3
    check_weights("wan", folder)
    assert same(load_transformer("wan", folder), tiny_wan(0))


def test_a_missing_shard_is_named_before_anything_starts(folder):
    shards = sorted((folder / "transformer").glob("*.safetensors"))
    shards[1].unlink()
    with pytest.raises(
        ValueError, match=rf"roles.teacher.path = .*: {INDEX} names files that are not there: {shards[1]}"
    ):
        check_weights("wan", folder, "roles.teacher.path")


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_single_file_in_the_authors_names(folder, tmp_path, prefix):
    file, model = tmp_path / "wan.safetensors", tiny_wan(0)
    save_file({prefix + original(name): t.contiguous() for name, t in model.state_dict().items()}, file)
    assert not any("condition_embedder" in name for name in load_file(file))
    with pytest.raises(ValueError, match="its tensors fit no published WanTransformer3DModel.*config.json beside"):
        check_folder("wan", file)
    shutil.copy(folder / "transformer/config.json", tmp_path / "config.json")
    assert same(load_transformer("wan", file), model)
    assert weights_hash(file) != weights_hash(folder)


def test_a_single_file_in_diffusers_names(folder, tmp_path):
    save_file(tiny_wan(0).state_dict(), tmp_path / "wan.safetensors")
    shutil.copy(folder / "transformer/config.json", tmp_path / "config.json")
    assert same(load_transformer("wan", tmp_path / "wan.safetensors"), tiny_wan(0))


def test_a_published_size_is_known_by_its_tensors(tmp_path, monkeypatch):
    (tmp_path / "published").mkdir()
    described = {**tiny_wan(0).config, "_class_name": "WanTransformer3DModel"}
    (tmp_path / "published/Tiny.json").write_text(json.dumps({"transformer": described}))
    monkeypatch.setattr(
        "ray_distill.models.wan.family.FAMILY", replace(FAMILY, published_folder=tmp_path / "published")
    )
    save_file(tiny_wan(0).state_dict(), tmp_path / "wan.safetensors")
    assert check_folder("wan", tmp_path / "wan.safetensors")["num_layers"] == 2


def test_weights_that_are_not_of_the_configuration_are_named(folder, tmp_path):
    path = folder / "transformer/config.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"ffn_dim": 48}))
    with pytest.raises(ValueError, match=r"blocks.0.ffn.net.0.proj.weight is \[32, 24\], and its conf.* \[48, 24\]"):
        check_weights("wan", folder)
    path.write_text(json.dumps(described | {"num_layers": 3}))
    with pytest.raises(ValueError, match="it lacks 27 of 96 tensors, such as blocks.2"):
        check_weights("wan", folder)


@pytest.mark.parametrize("names", [original, str], ids=["authors", "diffusers"])
@pytest.mark.parametrize("last", ["scale_weight", "weight_scale", "weight.absmax", "comfy_quant"])
def test_quantised_weights_are_refused(tmp_path, names, last):
    """As ComfyUI's scaled fp8: the weights alone would be thousands of times too large."""
    network = tiny_wan(0)
    whole = {names(name): tensor for name, tensor in network.state_dict().items()}
    layers = [names(f"blocks.0.attn1.to_{part}.weight").removesuffix("weight") for part in "qkv"]
    file = tmp_path / "wan_fp8_scaled.safetensors"
    save_file(whole | {f"{layer}{last}": torch.ones(1) for layer in layers}, file)
    network.save_config(tmp_path)
    with pytest.raises(
        ValueError, match=rf"fp8_scaled.safetensors: its weights are quantised, .*{last} tells how; give"
    ):
        check_weights("wan", file)
    save_file(whole, file)
    check_weights("wan", file)


def test_a_checkpoint_of_another_family_is_named(folder, tmp_path):
    other = LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, num_layers=1
    )
    shutil.rmtree(folder / "transformer")
    other.save_pretrained(folder / "transformer")
    with pytest.raises(
        ValueError, match="is a LTXVideoTransformer3DModel, but family 'wan' is a WanTransformer3DModel"
    ):
        check_weights("wan", folder)
    config = folder / "transformer/config.json"
    config.write_text(json.dumps({**tiny_wan(0).config, "_class_name": "WanTransformer3DModel"}))
    with pytest.raises(
        ValueError, match="not those of this WanTransformer3DModel: it lacks .* and has caption_projection"
    ):
        check_weights("wan", folder)


def test_what_is_no_safetensors_is_named(folder, tmp_path):
    for file in (folder / "transformer").glob("*.safetensors*"):
        file.unlink()
    (folder / "transformer" / SINGLE).write_bytes(b"not at all")
    with pytest.raises(ValueError, match=f"{SINGLE} is no safetensors file"):
        check_weights("wan", folder)


def test_a_hollow_network_has_no_weights_but_its_buffers(folder):
    network, weights = hollow_transformer("wan", folder, torch.bfloat16)
    assert {p.device.type for p in network.parameters()} == {"meta"}
    assert torch.equal(network.rope.freqs_cos, tiny_wan(0).rope.freqs_cos)
    kept = {p.dtype for name, p in network.named_parameters() if "time_embedder" in name}
    assert kept == {torch.float32} and network.proj_out.weight.dtype == torch.bfloat16
    assert len(weights) == len(list(network.parameters()))


def test_a_class_without_a_converter_is_named(tmp_path):
    class Unpublished(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

    network = Unpublished()
    shapes = shapes_of(network.named_parameters())
    save_file({"other.weight": torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(
        ValueError, match="not diffusers' own, and diffusers translates no single file of a Unpublished"
    ):
        Weights(tmp_path / "x.safetensors", "Unpublished", shapes)
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    Weights(tmp_path / "own.safetensors", "Unpublished", shapes).check()
