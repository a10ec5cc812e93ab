"""Networks and latent shapes of a run from configuration files only, without weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from ray_distill.config import RunConfig
from ray_distill.diffusion.causal import chunk_lengths
from ray_distill.models import family
from ray_distill.models.codec import frames_of
from ray_distill.models.heads import FeatureHeads, head_blocks
from ray_distill.models.int8 import is_quantized
from ray_distill.models.loading import cast
from ray_distill.models.lora import LoRA
from ray_distill.models.spec import Config, Latent
from ray_distill.types import Average, Role


@dataclass(frozen=True)
class Parameters:
    """Elements of each tensor: of the whole network, of its trained part (none of a frozen role), and of its average;
    and the number of the network's elements that take one byte."""

    every: tuple[int, ...]
    trainable: tuple[int, ...]
    averaged: tuple[int, ...] = ()
    int8: int = 0


def architecture(config: RunConfig, role: Role) -> Config:
    """The transformer's configuration from the role's folder, or the published one for the folder's name; else
    ValueError. For heads, that of the role under them."""
    heads = config.method.heads.get(role)
    return config.pipeline(heads.of if heads else role).architecture


def build(family_name: str, architecture: Mapping[str, Any]) -> nn.Module:
    """The network, on the device and with the default dtype of the calling context."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)  # diffusers warns of keys such as _class_name
    module: nn.Module = family(family_name).transformer.from_config(dict(architecture))
    return module


def parameters(config: RunConfig, role: Role) -> Parameters:
    if isinstance(need := config.method.roles[role], Average):
        source = parameters(config, need.of)
        return Parameters(source.every, (), source.trainable)
    if config.model.shared_base and role in config.adapters:
        adapters = adapter_sizes(config.model.family, json.dumps(architecture(config, role)), config.adapters[role])
        return Parameters(adapters, adapters)
    if role in config.method.heads:
        blocks, widths = head_blocks(role, config.method.heads[role], config.model.family, architecture(config, role))
        with torch.device("meta"):
            heads = tuple(p.numel() for p in FeatureHeads(len(blocks), widths).parameters())
        return Parameters(heads, heads)
    described, lora = json.dumps(architecture(config, role)), config.role(role).lora
    every = sizes(config.model.family, described)
    int8 = int8_size(config.model.family, described) if config.role(role).base_precision == "int8" else 0
    if lora is not None:
        adapters = adapter_sizes(config.model.family, described, lora)
        whole = whole_sizes(config.model.family, described, lora)
        return Parameters(every + adapters, adapters + whole, int8=int8)
    return Parameters(every, every if need == "trained" else (), int8=int8)


@cache
def sizes(family_name: str, architecture: str) -> tuple[int, ...]:
    """Elements of each parameter; ``architecture`` is a transformer's config as JSON."""
    with torch.device("meta"):
        module = build(family_name, json.loads(architecture))
    return tuple(p.numel() for p in module.parameters())


@cache
def sampled_bytes(family_name: str, architecture: str, dtype: str) -> int:
    """Bytes of a network that samples in ``dtype``; parts that diffusers keeps in fp32 stay fp32."""
    with torch.device("meta"):
        module = cast(build(family_name, json.loads(architecture)), getattr(torch, dtype))
    return sum(p.nbytes for p in module.parameters())


@cache
def adapter_sizes(family_name: str, architecture: str, lora: LoRA) -> tuple[int, ...]:
    """Elements of A [rank, in] and B [out, rank] of each layer that ``lora`` adapts."""
    with torch.device("meta"):
        module = build(family_name, json.loads(architecture))
    layers = [m for name, m in module.named_modules() if isinstance(m, nn.Linear) and lora.adapts(name)]
    return tuple(lora.rank * features for m in layers for features in (m.in_features, m.out_features))


@cache
def int8_size(family_name: str, architecture: str) -> int:
    """Elements of the weights that take one byte under base_precision=int8."""
    with torch.device("meta"):
        module = build(family_name, json.loads(architecture))
    layers = [m for name, m in module.named_modules() if isinstance(m, nn.Linear) and is_quantized(name)]
    return sum(m.weight.numel() for m in layers)


@cache
def whole_sizes(family_name: str, architecture: str, lora: LoRA) -> tuple[int, ...]:
    """Elements of the parts that train whole beside the adapters."""
    with torch.device("meta"):
        module = build(family_name, json.loads(architecture))
    return tuple(p.numel() for name, p in module.named_parameters() if lora.trains_whole(name))


def latent_shape(config: RunConfig) -> Latent:
    """(C, t, h, w) by the folder's codec, or by a published VAE; ValueError if the clips' size does not fit, or if a
    causal method cannot cut them into its chunks."""
    data, codec = config.data, config.model.pipeline.codec
    shape, chunks = codec.latent_shape(data.frames, data.height, data.width), config.method.sampler().chunks
    if chunks is not None:
        chunk_lengths(shape[1], chunks, partial(frames_of, codec))
    return shape
