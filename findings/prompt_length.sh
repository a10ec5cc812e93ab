#!/usr/bin/env bash
# A prompt embedded by WanPipeline.encode_prompt beforehand, against the same prompt given to the pipeline, each by its defaults.
# Versions: diffusers 0.42.1, torch 2.13.0, transformers 5.23.0 (a tiny transformer with random weights).
# Guess: both embed to one length, 512 tokens, and padding to another changes nothing.
# Seen: encode_prompt's default is 226 and the call's 512, for text, image and VACE. The padding is zeros that attention does not mask, so
# the velocity is another: 0.3 % here for 226 in place of 512, and 4 % for a prompt without padding. LTX-2, LTX, CogVideoX, HunyuanVideo and
# Mochi have one default in both places.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import inspect

import diffusers
import torch

print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
for name, expected in (
    ("WanPipeline", (226, 512)),
    ("WanImageToVideoPipeline", (226, 512)),
    ("WanVACEPipeline", (226, 512)),
    ("LTXPipeline", (128, 128)),
    ("CogVideoXPipeline", (226, 226)),
    ("MochiPipeline", (256, 256)),
):
    pipeline = getattr(diffusers, name)
    seen = tuple(inspect.signature(call).parameters["max_sequence_length"].default for call in (pipeline.encode_prompt, pipeline.__call__))
    print(f"{name}: encode_prompt {seen[0]} tokens, the call {seen[1]}")
    assert seen == expected, f"expected {expected}"

torch.manual_seed(0)
network = diffusers.WanTransformer3DModel(
    patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=32,
    freq_dim=32, ffn_dim=64, num_layers=2, rope_max_seq_len=64,
)
x, tokens = torch.randn(1, 4, 3, 8, 8), torch.randn(1, 20, 32)
with torch.no_grad():
    velocity = {
        length: network(x, torch.tensor([500.0]), torch.nn.functional.pad(tokens, (0, 0, 0, length - 20)), return_dict=False)[0]
        for length in (20, 226, 512)
    }
error = {length: ((v - velocity[512]).norm() / velocity[512].norm()).item() for length, v in velocity.items()}
print(f"20 tokens, padded to 226: {error[226]:.2%} from those padded to 512; not padded: {error[20]:.2%}")
assert 1e-3 < error[226] < error[20], "expected another velocity for another padding"
PYTHON
