"""The workflow for ComfyUI: nodes, links and values by ComfyUI's definitions, and the student's steps in its samplers.

The definitions were read in ComfyUI's repository: ``nodes.py`` (loaders, CLIP's nodes, VAEDecode), and of 2026
``comfy_extras/nodes_custom_sampler.py`` (commit 065c1df017d0), ``nodes_video.py`` (0413db9da961), ``nodes_wan.py``
(01646347f4fa) and ``nodes_hunyuan.py`` (0836853fec8d). ComfyUI itself is not installed here.
"""

import json
import re
from pathlib import Path

import pytest
import torch

from ray_distill.diffusion.samplers import by_level, denoise
from ray_distill.export.diffusers import WORKFLOW, export_student
from ray_distill.models import family
from ray_distill.models.loading import published_configs
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.wan.comfyui import NETWORKS, workflow
from ray_distill.types import Experts, Sampler
from tests.unit.toys import Gaussian

FILE, TEXT = "a file's name", "a text"
SIZE = {"width": (16, 16384, 16), "height": (16, 16384, 16), "length": (1, 16384, 4), "batch_size": (1, 4096, 1)}
WIDE = SIZE | {"width": (32, 16384, 32), "height": (32, 16384, 32)}
NODES = {
    "UNETLoader": (
        {"unet_name": FILE, "weight_dtype": {"default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"}},
        ("MODEL",),
    ),
    "LoraLoaderModelOnly": ({"model": "MODEL", "lora_name": FILE, "strength_model": (-100.0, 100.0, 0)}, ("MODEL",)),
    "CLIPLoader": ({"clip_name": FILE, "type": {"wan", "sd3", "ltxv"}, "device": {"default", "cpu"}}, ("CLIP",)),
    "VAELoader": ({"vae_name": FILE}, ("VAE",)),
    "CLIPTextEncode": ({"text": TEXT, "clip": "CLIP"}, ("CONDITIONING",)),
    "CLIPVisionLoader": ({"clip_name": FILE}, ("CLIP_VISION",)),
    "CLIPVisionEncode": (
        {"clip_vision": "CLIP_VISION", "image": "IMAGE", "crop": {"center", "none"}},
        ("CLIP_VISION_OUTPUT",),
    ),
    "LoadImage": ({"image": FILE}, ("IMAGE", "MASK")),
    "EmptyHunyuanLatentVideo": (SIZE, ("LATENT",)),
    "Wan22ImageToVideoLatent": (WIDE | {"vae": "VAE", "start_image?": "IMAGE"}, ("LATENT",)),
    "WanImageToVideo": (
        SIZE
        | {"positive": "CONDITIONING", "negative": "CONDITIONING", "vae": "VAE"}
        | {"clip_vision_output?": "CLIP_VISION_OUTPUT", "start_image?": "IMAGE"},
        ("CONDITIONING", "CONDITIONING", "LATENT"),
    ),
    "KSamplerSelect": ({"sampler_name": {"euler", "lcm"}}, ("SAMPLER",)),
    "ManualSigmas": ({"sigmas": TEXT}, ("SIGMAS",)),
    "SamplerCustom": (
        {"model": "MODEL", "add_noise": {True, False}, "noise_seed": (0, 2**64 - 1, 1), "cfg": (0.0, 100.0, 0)}
        | {"positive": "CONDITIONING", "negative": "CONDITIONING", "sampler": "SAMPLER", "sigmas": "SIGMAS"}
        | {"latent_image": "LATENT"},
        ("LATENT", "LATENT"),
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, ("IMAGE",)),
    "CreateVideo": ({"images": "IMAGE", "fps": (1.0, 120.0, 0), "audio?": "AUDIO"}, ("VIDEO",)),
    "SaveVideo": (
        {"video": "VIDEO", "filename_prefix": TEXT, "format": {"auto", "mp4"}, "codec": {"auto", "h264"}},
        (),
    ),
}
"""class -> (input -> the type of a link, a set of choices, (least, most, step) of a number; outputs). ?: optional."""


def faults(graph):
    """Faults that ComfyUI refuses: nodes and inputs that are unknown or missing, links of other types, wrong values."""
    found = []
    for node, each in graph.items():
        if each["class_type"] not in NODES:
            found.append(f"{node}: no node {each['class_type']}")
            continue
        inputs, _ = NODES[each["class_type"]]
        kinds = {name.removesuffix("?"): kind for name, kind in inputs.items()}
        needed = {name for name in inputs if not name.endswith("?")}
        for name in needed - each["inputs"].keys() | each["inputs"].keys() - kinds.keys():
            found.append(f"{node}: {name} is missing or unknown")
        for name, value in each["inputs"].items():
            if name in kinds and not fits(graph, value, kinds[name]):
                found.append(f"{node}: {name} = {value!r}")
    return found


def fits(graph, value, kind):
    if isinstance(value, list):  # a link to an earlier node
        source, slot = value
        outputs = NODES.get(graph.get(source, {}).get("class_type"), ((), ()))[1]
        return isinstance(kind, str) and slot < len(outputs) and outputs[slot] == kind
    if isinstance(kind, set):
        return value in kind
    if kind in (FILE, TEXT):
        return isinstance(value, str) and (kind == TEXT or value.endswith((".safetensors", ".png")))
    if isinstance(kind, str):
        return False
    least, most, step = kind
    whole = type(value) is (float if isinstance(least, float) else int)
    return whole and least <= value <= most and (step == 0 or (value - least) % step == 0)


def recipe(**changes):
    own = {"kind": "sde", "timesteps": [1000.0, 937.5, 833.3333333333334, 625.0], "guidance_scale": 1.0, "chunks": None}
    own |= {"boundary_ratio": None, "negative_prompt": "blurry", "base": "../model", "from_image": False}
    return own | {"frames": 81, "width": 832, "height": 480, "fps": 16} | changes


BASES = {name: parts for name, parts in published_configs(family("wan")).items()}
EXPERTS = {"boundary_ratio": 0.875}


def built(base, files=None, **changes):
    pipeline = Pipeline("wan", Path("Wan-AI") / base, "base")
    two = "A14B" in base
    names = ["original_bfloat16.safetensors", "original_bfloat16_2.safetensors"][: 1 + two]
    settings = recipe(**{"from_image": "-I2V" in base, "base": f"Wan-AI/{base}"} | (EXPERTS if two else {}) | changes)
    return workflow(pipeline, BASES[base]["transformer"], settings, files or {"original_bfloat16": names})


def nodes(graph, kind):
    return [each["inputs"] for each in graph.values() if each["class_type"] == kind]


@pytest.mark.parametrize("kind", ["sde", "ode"])
@pytest.mark.parametrize("base", sorted(BASES))
def test_every_published_pipeline_has_a_workflow_of_known_nodes(base, kind):
    graph = built(base, kind=kind)
    assert faults(graph) == [] and len(nodes(graph, "SaveVideo")) == 1
    assert nodes(graph, "KSamplerSelect") == [{"sampler_name": {"sde": "lcm", "ode": "euler"}[kind]}]
    assert len(nodes(graph, "UNETLoader")) == len(nodes(graph, "SamplerCustom")) == (2 if "A14B" in base else 1)
    assert len(nodes(graph, "CLIPVisionEncode")) == ("2.1-I2V" in base)
    assert [each["text"] for each in nodes(graph, "CLIPTextEncode")] == ["a prompt", "blurry"]
    used = {value[0] for each in graph.values() for value in each["inputs"].values() if isinstance(value, list)}
    assert graph.keys() - used == {node for node, each in graph.items() if each["class_type"] == "SaveVideo"}
    assert any("not run in ComfyUI" in each["_meta"].get("note", "") for each in graph.values())


def test_an_adapter_goes_upon_the_published_network():
    two = ["comfyui_lora.safetensors", "comfyui_lora_2.safetensors"]
    graph = built("Wan2.2-T2V-A14B-Diffusers", {"comfyui_lora": two})
    assert faults(graph) == [] and [each["lora_name"] for each in nodes(graph, "LoraLoaderModelOnly")] == two
    assert tuple(each["unet_name"] for each in nodes(graph, "UNETLoader")) == NETWORKS["Wan2.2-T2V-A14B-Diffusers"]
    models = [graph[each["model"][0]]["class_type"] for each in nodes(graph, "SamplerCustom")]
    assert models == ["LoraLoaderModelOnly"] * 2
    alone = built("Wan2.2-T2V-A14B-Diffusers", {"comfyui_lora": two[:1]})  # the low expert's stage has not begun
    assert faults(alone) == [] and len(nodes(alone, "LoraLoaderModelOnly")) == 1
    assert set(NETWORKS) == set(BASES)


def test_an_export_holds_it_beside_its_files(tmp_path):
    sizes = {"num_attention_heads": 1, "attention_head_dim": 12, "text_dim": 8, "freq_dim": 8, "ffn_dim": 8}
    network = family("wan").transformer(in_channels=16, out_channels=16, num_layers=1, **sizes)
    sampler = Sampler((1000.0, 625.0), "sde")
    clips = {"frames": 5, "height": 32, "width": 32, "fps": 16, "max_sequence_length": 512}
    base, shape = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", (16, 2, 4, 4)
    formats = ("original_bfloat16",)
    out = export_student(tmp_path / "out", network, base, sampler, shape, card={}, formats=formats, **clips)
    graph = json.loads((out / WORKFLOW).read_text())
    assert faults(graph) == [] and nodes(graph, "UNETLoader")[0]["unet_name"] == "original_bfloat16.safetensors"
    assert (out / "original_bfloat16.safetensors").is_file()
    assert nodes(graph, "ManualSigmas") == [{"sigmas": "1.00000000, 0.62500000, 0.00000000"}]
    assert "and not run there" in (out / "README.md").read_text()
    plain = export_student(tmp_path / "plain", network, base, sampler, shape, card={}, **clips)
    assert not (plain / WORKFLOW).exists() and "ComfyUI" not in (plain / "README.md").read_text()


PLANTED = {
    "no node": lambda graph: graph["1"].update(class_type="VaeLoader"),
    "is missing": lambda graph: graph["1"].update(inputs={}),
    "or unknown": lambda graph: graph["1"]["inputs"].update(shift=8.0),
    "vae = ": lambda graph: next(e for e in graph.values() if e["class_type"] == "VAEDecode")["inputs"].update(
        vae=["2", 0]
    ),
    "width = 840": lambda graph: nodes(graph, "EmptyHunyuanLatentVideo")[0].update(width=840),
    "sampler_name": lambda graph: nodes(graph, "KSamplerSelect")[0].update(sampler_name="sde"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_seen(fault):
    graph = built("Wan2.1-T2V-1.3B-Diffusers")
    PLANTED[fault](graph)
    assert any(fault in line for line in faults(graph))


# The samplers of ComfyUI, by the formulas of its flow models: x_t = sigma eps + (1 - sigma) x_0


def play(graph, networks, noise):
    """The latents of the workflow's last sampler. ``noise``: noise_seed -> (first noise, iterator of fresh noise)."""
    latents = torch.zeros(2, 4, 3, 4, 4)
    kind = nodes(graph, "KSamplerSelect")[0]["sampler_name"]
    for number, each in enumerate(nodes(graph, "SamplerCustom")):
        found = re.findall(r"[-+]?(?:\d*\.*\d+)", graph[each["sigmas"][0]]["inputs"]["sigmas"])  # as ManualSigmas reads
        sigmas, (first, fresh) = [float(text) for text in found], noise[each["noise_seed"]]
        x = sigmas[0] * (first if each["add_noise"] else 0) + (1 - sigmas[0]) * latents
        for sigma, after in zip(sigmas, sigmas[1:], strict=False):
            level = torch.full((2,), sigma)
            x_0 = x - sigma * networks[number](x, level, {}).velocity
            if kind == "euler":
                x = x + (x - x_0) / sigma * (after - sigma)
            else:
                x = after * next(fresh) + (1 - after) * x_0 if after > 0 else x_0
        latents = x / (1 - sigmas[-1])
    return latents


@pytest.mark.parametrize("kind", ["sde", "ode"])
@pytest.mark.parametrize("base", ["Wan2.1-T2V-1.3B-Diffusers", "Wan2.2-T2V-A14B-Diffusers"])
def test_comfyuis_samplers_take_the_recipes_steps(base, kind):
    torch.manual_seed(0)
    high, low = Gaussian(mean=1.0, std=0.5), Gaussian(mean=-2.0, std=0.3)
    two = "A14B" in base
    graph = built(base, kind=kind)
    x_T, one, other = torch.randn(2, 4, 3, 4, 4), torch.randn(3, 2, 4, 3, 4, 4), torch.randn(3, 2, 4, 3, 4, 4)
    theirs = play(graph, [high, low], {0: (x_T, iter(one)), 1_000_000: (None, iter(other))})
    noise = [*one[:2], other[0]] if two else list(one)  # 1000 and 937.5 are the high expert's: two fresh noises
    experts = Experts("high", "low", 875.0) if two else None
    sampler = Sampler(tuple(recipe()["timesteps"]), kind, experts=experts)
    network = by_level(experts, {"high": high, "low": low}) if two else high
    ours = denoise(network, sampler, x_T, {}, None, lambda i: noise[i], 0, 4)
    assert torch.allclose(theirs, ours, atol=1e-5)
    wrong = Sampler((1000.0, 937.5, 833.0, 300.0), kind, experts=experts)
    assert not torch.allclose(theirs, denoise(network, wrong, x_T, {}, None, lambda i: noise[i], 0, 4), atol=1e-3)


def test_a_student_that_comfyuis_nodes_cannot_sample_has_a_reason():
    base = "Wan2.1-T2V-1.3B-Diffusers"
    assert "chunk by chunk" in built(base, chunks={"frames": 3})
    assert "first level is 0.9," in built(base, timesteps=[900.0, 500.0])
    assert "holds its first frame" in built("Wan2.2-TI2V-5B-Diffusers", from_image=True)
    digits = Path(__file__).parents[3] / "examples" / "digits_teacher"
    pipeline = Pipeline("wan", digits, "base")
    assert "ComfyUI has no VAE" in workflow(pipeline, pipeline.transformer, recipe(), {"original_float32": ["a"]})
