"""Checkpoints: safetensors of whole, named fp32 tensors; knows no Ray, no ZeRO stage and no world size."""

from ray_distill.checkpoint.reader import BadCheckpoint, Checkpoint, latest
from ray_distill.checkpoint.writer import write

__all__ = ["BadCheckpoint", "Checkpoint", "latest", "write"]
