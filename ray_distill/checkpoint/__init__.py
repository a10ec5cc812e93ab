"""Checkpoints: whole, named fp32 tensors in safetensors; independent of Ray, ZeRO stage and world size.

Writing is ``ray_distill.checkpoint.writer``; it imports torch, which those who only look for a checkpoint do without.
"""

from ray_distill.checkpoint.reader import BadCheckpoint, Checkpoint, is_whole, latest

__all__ = ["BadCheckpoint", "Checkpoint", "is_whole", "latest"]
