#!/usr/bin/env bash
# A Wan transformer in "scaled fp8", as ComfyUI's files have it, read by diffusers' from_single_file.
# Versions: diffusers 0.42.1, torch 2.13.0, transformers 5.23.0 (CPU).
# Guess: each weight is multiplied by the scale beside it, or the file is refused.
# Seen: it is loaded with the weights as they are stored, up to 448 each and here 2,000 times too large, in the dtype that was asked for
# and with all names matched. The scales are listed in the warning of unused weights, which any file with an extra tensor has.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 transformers==5.23.0 accelerate
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
import transformers
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file

diffusers.utils.logging.set_verbosity_error()
print(f"diffusers {diffusers.__version__}, torch {torch.__version__}, transformers {transformers.__version__}")
# Wan's own names of what diffusers renames, in the order in which they are replaced.
NAMES = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "to_out.0": "o",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm_",
    "norm3": "norm2",
    "norm_.": "norm3.",
    "attn1.": "self_attn.",
    "attn2.": "cross_attn.",
    "to_": "",
    "proj_out": "head.head",
}


def original(name):
    if name == "scale_shift_table":
        return "head.modulation"
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name.replace("scale_shift_table", "modulation")


torch.manual_seed(0)
sizes = dict(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=16, freq_dim=32)
network = WanTransformer3DModel(**sizes, ffn_dim=64, num_layers=2).eval()
network.save_config("config/transformer")
weights = network.state_dict()
half = {original(name): tensor.to(torch.float16) for name, tensor in weights.items()}
scaled = dict(half)
for name, tensor in weights.items():
    if name.startswith("blocks.") and tensor.ndim == 2:
        scale = tensor.abs().max() / 448
        scaled[original(name)] = (tensor / scale).to(torch.float8_e4m3fn)
        scaled[original(name).replace(".weight", ".scale_weight")] = scale.reshape(1)
scaled["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)

layer, ratios = "blocks.0.attn1.to_q.weight", {}
for kind, tensors in (("float16", half), ("scaled fp8", scaled)):
    save_file(tensors, f"{kind}.safetensors")
    given = dict(config="config", subfolder="transformer", torch_dtype=torch.float32)
    loaded = WanTransformer3DModel.from_single_file(f"{kind}.safetensors", **given).state_dict()
    assert loaded.keys() == weights.keys() and loaded[layer].dtype == torch.float32
    ratios[kind] = (loaded[layer].std() / weights[layer].std()).item()
    print(f"{kind}: {layer} has {ratios[kind]:.4g} of its size")
assert abs(ratios["float16"] - 1) < 1e-3 and ratios["scaled fp8"] > 1000
PYTHON
