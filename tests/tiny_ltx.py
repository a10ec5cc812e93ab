"""LTX-Video's architecture at a size that a CPU runs in milliseconds."""

import torch
from diffusers import LTXVideoTransformer3DModel

SHAPE = (4, 3, 2, 2)
TEXT = (5, 8)


def tiny_ltx(seed: int, layers: int = 2) -> LTXVideoTransformer3DModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LTXVideoTransformer3DModel(
            in_channels=SHAPE[0],
            out_channels=SHAPE[0],
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=32,
            caption_channels=TEXT[1],
            num_layers=layers,
        )
