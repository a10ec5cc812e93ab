"""LoRA files merged into a network: equal to diffusers' own fused pipeline, in each spelling of their names."""

import json
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file

from ray_distill.export.original import original_name
from ray_distill.models import family
from ray_distill.models.hashing import weights_hash
from ray_distill.models.loading import check_loras, hollow_transformer, load_transformer
from ray_distill.models.lora_files import METADATA, LoRAFile, LoRATensors
from tests.unit.export.test_original import TINY, named, pipeline_of

RANK, ALPHA, WEIGHT = 2, 3.0, 0.7
SETTINGS = {"r": RANK, "lora_alpha": ALPHA}


@dataclass
class Case:
    """A tiny pipeline's folder, a LoRA file for it, and diffusers' network with that file fused."""

    family: str
    folder: object
    file: object
    fused: torch.nn.Module

    def difference(self, weight=WEIGHT):
        """Largest difference of a weight between diffusers' fused network and ours."""
        ours = load_transformer(self.family, self.folder, loras=[LoRAFile(path=self.file, weight=weight)]).state_dict()
        return max((ours[name] - w).abs().max().item() for name, w in self.fused.state_dict().items())


def adapter(network, layers):
    """Random A and B of each layer, by plain name."""
    torch.manual_seed(1)
    tensors = {}
    for layer in layers:
        out, width = network.get_submodule(layer).weight.shape
        tensors |= {
            f"{layer}.lora_A.weight": torch.randn(RANK, width),
            f"{layer}.lora_B.weight": torch.randn(out, RANK),
        }
    return tensors


def spelt(spelling, tensors, of):
    """(the tensors in a ``spelling``, the file's metadata)."""
    if spelling == "diffusers":
        layers = sorted({name.partition(".lora_")[0] for name in tensors})
        settings = {f"transformer.{key}": value for key, value in (SETTINGS | {"target_modules": layers}).items()}
        return {f"transformer.{name}": t for name, t in tensors.items()}, {METADATA: json.dumps(settings)}
    out = {}
    for name, t in tensors.items():
        layer, _, part = name.partition(".lora_")
        original = original_name(layer, of)
        if spelling == "kohya":
            original = f"lora_unet_{original.replace('.', '_')}"
        else:
            original = f"diffusion_model.{original}"
        down = part.startswith("A")
        end = {
            "kohya": ("lora_down", "lora_up"),
            "comfyui": ("lora_A", "lora_B"),
            "comfyui_down": ("lora_down", "lora_up"),
        }
        out[f"{original}.{end[spelling][not down]}.weight"] = t
        out[f"{original}.alpha"] = torch.tensor(ALPHA)
    return out, {}


@pytest.fixture
def case(tmp_path, request):
    name, spelling = request.param
    kind, sizes = TINY[name]
    torch.manual_seed(0)
    network = family(name).transformer(**sizes)
    network.save_pretrained(tmp_path / "model/transformer")
    known, others = named(name, network)
    # diffusers reads all layers by its own names, and by the others', with alpha, those of the blocks alone
    layers = [*known, *others] if spelling == "diffusers" else [layer for layer in known if "blocks." in layer]
    tensors, metadata = spelt(spelling, adapter(network, layers), family(name))
    save_file({key: t.contiguous() for key, t in tensors.items()}, tmp_path / "style.safetensors", metadata)
    pipe = pipeline_of(kind, network)
    pipe.load_lora_weights(tmp_path, weight_name="style.safetensors")
    pipe.fuse_lora(components=["transformer"], lora_scale=WEIGHT)
    pipe.unload_lora_weights()
    return Case(name, tmp_path / "model", tmp_path / "style.safetensors", pipe.transformer)


WAN = [("wan", "diffusers"), ("wan", "comfyui"), ("wan", "comfyui_down"), ("wan", "kohya")]


@pytest.mark.parametrize("case", [*WAN, ("ltx", "diffusers"), ("ltx2", "diffusers")], indirect=True)
def test_a_merged_lora_is_diffusers_fused_pipeline(case):
    assert case.difference() < 1e-5
    assert case.difference(weight=2 * WEIGHT) > 0.1  # the tolerance sees a LoRA
    check_loras(case.family, case.folder, [LoRAFile(path=case.file)])


FAULTS = {
    "alpha ignored": ("scale", lambda self, layer: self.file.weight),
    "weight ignored": ("scale", lambda self, layer: ALPHA / RANK),
    "a key dropped": ("_check", lambda self, linear: self.layers.pop(next(iter(self.layers)))),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("case", WAN, indirect=True)
def test_a_planted_fault_is_seen(case, monkeypatch, fault):
    monkeypatch.setattr(LoRATensors, *FAULTS[fault])
    assert case.difference() > 1e-2


@pytest.mark.parametrize("case", [("wan", "kohya")], indirect=True)
def test_what_a_network_reads_is_the_merged_weight_in_fp32(case):
    """A bf16 role's masters begin at the merged value, and its weights at that value's rounding."""
    loras = [LoRAFile(path=case.file, weight=WEIGHT)]
    name, network = "blocks.0.attn1.to_q.weight", None
    network, weights = hollow_transformer("wan", case.folder, torch.bfloat16, loras)
    assert (
        weights.dtype(name) == weights[name].dtype == torch.float32
        and network.get_parameter(name).dtype != torch.float32
    )
    rough = load_transformer("wan", case.folder, torch.bfloat16, loras).get_parameter(name)
    assert torch.equal(rough, weights[name].bfloat16())


@pytest.mark.parametrize("case", [("wan", "comfyui")], indirect=True)
def test_loras_add_up_and_belong_to_the_hash(case, tmp_path):
    one, other = LoRAFile(path=case.file, weight=WEIGHT), LoRAFile(path=case.file, weight=-WEIGHT)
    plain, both = load_transformer("wan", case.folder), load_transformer("wan", case.folder, loras=[one, other])
    for name, weight in plain.state_dict().items():
        assert torch.allclose(both.state_dict()[name], weight, atol=1e-5)
    source, copy = case.folder, tmp_path / "copy.safetensors"
    copy.write_bytes(case.file.read_bytes())
    assert weights_hash(source, [one]) == weights_hash(source, [LoRAFile(path=copy, weight=WEIGHT)])
    hashes = {weights_hash(source, loras) for loras in ([], [one], [other], [one, other])}
    save_file({"x": torch.ones(1)}, copy)
    assert len(hashes | {weights_hash(source, [LoRAFile(path=copy, weight=WEIGHT)])}) == 5


def test_pefts_alpha_pattern_and_rank_stabilised_scale_are_read(tmp_path):
    kind, sizes = TINY["wan"]
    torch.manual_seed(0)
    network = family("wan").transformer(**sizes)
    network.save_pretrained(tmp_path / "model/transformer")
    layers = [f"blocks.{n}.attn1.to_{one}" for n in (0, 1) for one in "qk"]
    for extra in ({"alpha_pattern": {"blocks.1.attn1.to_q": 5.0}}, {"use_rslora": True}):
        settings = {
            f"transformer.{key}": value for key, value in (SETTINGS | {"target_modules": layers} | extra).items()
        }
        tensors = {f"transformer.{name}": t for name, t in adapter(network, layers).items()}
        save_file(tensors, tmp_path / "style.safetensors", {METADATA: json.dumps(settings)})
        pipe = pipeline_of(kind, load_transformer("wan", tmp_path / "model"))
        pipe.load_lora_weights(tmp_path, weight_name="style.safetensors")
        pipe.fuse_lora(components=["transformer"], lora_scale=WEIGHT)
        pipe.unload_lora_weights()
        assert Case("wan", tmp_path / "model", tmp_path / "style.safetensors", pipe.transformer).difference() < 1e-5


LAYER = "transformer.blocks.0.attn1.to_q"
A, B = {f"{LAYER}.lora_A.weight": torch.ones(2, 24)}, {f"{LAYER}.lora_B.weight": torch.ones(24, 2)}
WRONG = {
    "is neither A, B nor alpha of a LoRA": A | B | {f"{LAYER}.diff_b": torch.ones(24)},
    "belongs to no linear layer of this WanTransformer3DModel; its nearest layer is 'transformer.blocks.0": (
        A | B | {"transformer.blocks.0.attn1.to_x.lora_A.weight": torch.ones(2, 24)}
    ),
    "'lora_te_x.lora_up.weight' belongs to no linear layer of this": A
    | B
    | {"lora_te_x.lora_up.weight": torch.ones(2)},
    r"blocks.0.attn1.to_q has .*lora_A.weight'\] without B": A,
    r"is \[24, 24\], and .*lora_A.weight' is \[2, 25\]": {f"{LAYER}.lora_A.weight": torch.ones(2, 25)} | B,
    r"lora_B.weight' \[24, 3\]; this LoRA is of another network": A | {f"{LAYER}.lora_B.weight": torch.ones(24, 3)},
    "alpha' is no number": A | B | {f"{LAYER}.alpha": torch.ones(2)},
    "alpha / rank of blocks.0.attn1.to_q is inf": A | B | {f"{LAYER}.alpha": torch.tensor(torch.inf)},
    "are the same tensor of blocks.0.attn1.to_q; keep one": (
        A | B | {"diffusion_model.blocks.0.self_attn.q.lora_down.weight": torch.ones(2, 24)}
    ),
    "has no tensors": {},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path, message):
    family("wan").transformer(**TINY["wan"][1]).save_pretrained(tmp_path / "model/transformer")
    save_file(WRONG[message], tmp_path / "style.safetensors")
    with pytest.raises(ValueError, match=f"model.loras: .*style.safetensors.*{message}"):
        check_loras("wan", tmp_path / "model", [LoRAFile(path=tmp_path / "style.safetensors")])


def test_files_that_are_missing_or_no_safetensors_are_refused(tmp_path):
    family("wan").transformer(**TINY["wan"][1]).save_pretrained(tmp_path / "model/transformer")
    with pytest.raises(ValueError, match="style.safetensors: no such file"):
        check_loras("wan", tmp_path / "model", [LoRAFile(path=tmp_path / "style.safetensors")])
    (tmp_path / "style.pt").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="style.pt is no safetensors file"):
        check_loras("wan", tmp_path / "model", [LoRAFile(path=tmp_path / "style.pt")])
    save_file(A | B, tmp_path / "style.safetensors", {METADATA: json.dumps({"transformer.use_dora": True})})
    with pytest.raises(ValueError, match="this is a DoRA"):
        check_loras("wan", tmp_path / "model", [LoRAFile(path=tmp_path / "style.safetensors")])
    unknown = json.dumps({"transformer.lora_alpha": 1, "transformer.alpha_pattern": {"to_x": 2}})
    save_file(A | B, tmp_path / "style.safetensors", {METADATA: unknown})
    with pytest.raises(ValueError, match="its alpha_pattern names 'to_x', which is no layer of the file"):
        check_loras("wan", tmp_path / "model", [LoRAFile(path=tmp_path / "style.safetensors")])
    with pytest.raises(ValueError, match="weight = 0"):
        LoRAFile(path=tmp_path / "style.safetensors", weight=0)
