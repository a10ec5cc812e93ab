"""Load one role's network, to sample or to export: out of a checkpoint, or as it began."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ray_distill.checkpoint.reader import Checkpoint
from ray_distill.config import RunConfig
from ray_distill.models.loading import load_transformer, random_transformer
from ray_distill.models.lora import merge


def load_network(config: RunConfig, role: str, checkpoint: Path | None, averaged: bool = True) -> nn.Module:
    """A role's network, frozen, in fp32: out of a checkpoint (its average, where one is kept), or as it began.

    Adapters are merged into the weights that they adapt."""
    if config.role(role).init == "random":
        module = random_transformer(config.model.family, config.source(role), config.seed)
    else:
        module = load_transformer(config.model.family, config.source(role))
    if checkpoint is not None and config.method.roles[role] == "trained":
        trained = Checkpoint(checkpoint).tensors(role, config.sampled_tensors(role) if averaged else "weights")
        lora = config.role(role).lora
        if lora is None:
            module.load_state_dict(trained)
        else:
            merge(module, lora, trained)
    return module.eval().requires_grad_(False)
