"""Wan's architecture at a size that a CPU runs in milliseconds."""

import torch
from diffusers import WanTransformer3DModel

SHAPE = (4, 3, 4, 4)
TEXT = (5, 8)


def tiny_wan(seed: int, text_dim: int = TEXT[1]) -> WanTransformer3DModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=text_dim,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        )
