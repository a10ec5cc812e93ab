"""Merge an adapter into a bare network by peft, as a reference for every other way."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ray_distill.models.lora import LoRA, add_lora, plain


@torch.no_grad()
def merge(module: nn.Module, lora: LoRA, adapter: Mapping[str, Tensor]) -> None:
    """Add the ``adapter`` (tensors by plain name) to the weights of ``module``, which is a bare network again after it;
    parts that were trained whole take the place of its own.

    ValueError unless the adapter has exactly the tensors that ``lora`` puts on this network.
    """
    add_lora(module, lora, seed=0)
    own = {plain(name): p for name, p in module.named_parameters() if p.requires_grad}
    if wrong := {name for name, p in own.items() if name not in adapter or adapter[name].shape != p.shape} | (
        adapter.keys() - own.keys()
    ):
        raise ValueError(f"the adapter is another model's, or of another rank or targets: {min(wrong)} does not fit")
    for name, parameter in own.items():
        parameter.copy_(adapter[name])
    module.fuse_lora()  # type: ignore[operator]
    module.unload_lora()  # type: ignore[operator]
