"""Checkpoints: named fp32 tensors in safetensors, read whole; independent of Ray, ZeRO stage and world size.

Workers write (`writer`); the driver reads, verifies and prunes (`reader`, `retention`); sampling and export load one
role's network (`network`). `writer` and `network` import torch; finding a checkpoint needs no torch.
May import: config and all below it; no Ray, no DeepSpeed.
A new file owes a test that cuts off a save, or changes a byte, and finds that no such checkpoint is read.
"""

from ray_distill.checkpoint.reader import BadCheckpoint, Checkpoint, is_whole, latest

__all__ = ["BadCheckpoint", "Checkpoint", "is_whole", "latest"]
