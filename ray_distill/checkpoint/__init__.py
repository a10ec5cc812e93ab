"""Checkpoints: whole, named fp32 tensors in safetensors; independent of Ray, ZeRO stage and world size.

Workers write (`writer`); the driver reads, verifies and prunes (`reader`, `retention`); whoever samples or exports
loads one role's network (`network`). `writer` and `network` import torch, which a look for a checkpoint does without.
May import: config and all below it; no Ray, no DeepSpeed.
A new file owes a test in which a save is cut off, or a byte changes, and no such checkpoint is ever read.
"""

from ray_distill.checkpoint.reader import BadCheckpoint, Checkpoint, is_whole, latest

__all__ = ["BadCheckpoint", "Checkpoint", "is_whole", "latest"]
