"""Measure the bytes that autograd saves in a forward of Wan, beside those of `ray-distill plan`.

    python benchmarks/activations.py [--layers 6] [--width 256]

It runs a Wan with random weights on this machine's CPU, without a GPU, and counts each distinct storage that the hooks
for saved tensors see once, without weights. The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from ray_distill.models.spec import Field
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.plan.passes import Workload, count

LATENTS = {"5 x 64 x 64": (4, 2, 8, 8), "17 x 96 x 64": (4, 5, 12, 8)}
"""Frames x height x width in pixels, and the latent of four channels that they are."""
TEXT = (64, 32)
FIELDS = (("text", Field(TEXT, padding="zeros")),)


def saved(work: Workload, described: dict[str, Any]) -> int:
    """Bytes of a real forward's saved tensors, and of its output."""
    dtype = getattr(torch, work.dtype)
    network = WanTransformer3DModel.from_config(described).to(dtype)
    if work.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    own = {t.untyped_storage().data_ptr() for t in [*network.parameters(), *network.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x_t, text = torch.randn(work.rows, *work.latent), torch.randn(work.rows, *TEXT)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        velocity = WanDenoiser(network, dtype)(x_t, torch.rand(work.rows), {"text": text}).velocity
    assert velocity.requires_grad
    return sum(size for pointer, size in kept.items() if pointer not in own) + velocity.nbytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    args = parser.parse_args()
    torch.manual_seed(0)
    shape = {"num_attention_heads": args.width // 32, "attention_head_dim": 32, "ffn_dim": 4 * args.width}
    shape |= {"in_channels": 4, "out_channels": 4, "text_dim": TEXT[1], "freq_dim": 32, "num_layers": args.layers}
    described = dict(WanTransformer3DModel(**shape, rope_max_seq_len=32).config)
    print(f"{'dtype':<9} {'checkpointing':<13} {'clip':<13} {'rows':>4} {'saved, MiB':>10} {'plan':>7}   off")
    rows = []
    for dtype, checkpointing, (clip, latent) in itertools.product(
        ("float32", "bfloat16"), (False, True), LATENTS.items()
    ):
        n = 1 if checkpointing else 2
        work = Workload("wan", json.dumps(described), dtype, checkpointing, n, latent, FIELDS, True)
        real, plan = saved(work, described), count(work).saved
        off = plan / real - 1
        print(
            f"{dtype:<9} {'yes' if checkpointing else 'no':<13} {clip:<13} {n:4d} {real / 2**20:10.2f} "
            f"{plan / 2**20:7.2f} {off:+6.1%}"
        )
        rows.append({"dtype": dtype, "checkpointing": checkpointing, "clip": clip, "saved": real, "planned": plan})
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
