"""Memory of a run's encoders: the codec on a clip, and the text encoder."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ray_distill.config import RunConfig
from ray_distill.models.codec import PCA, frames_of, load_codec, vae_class
from ray_distill.models.parts import stored_shapes
from ray_distill.models.pipeline import Pipeline
from ray_distill.plan.passes import Counter

TEXT_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Bytes of an element of the text encoder, by its precision."""
FEW = 5, 7
"""Latent frames of the two clips from which the memory of longer clips follows. Fewer would not do: CogVideoX decodes
the first three at once, and others in pairs."""
SIDES = 2, 3
"""Rows and columns of latents of the picture from which the memory of larger pictures follows."""
COPIES = 4
"""Bound on the copies of a clip's pixels that exist while tiles are cut and joined."""


@dataclass(frozen=True)
class Coding:
    """Bytes of a codec's ``weights``, and of the largest passing tensors while it encodes or decodes one clip."""

    weights: int
    encode: int
    decode: int


def coding(pipeline: Pipeline, size: tuple[int, int, int], tiling: bool) -> Coding:
    """Memory of the codec on a clip of ``size`` (frames, height, width): linear in the picture's area and, for long
    clips, in its frames, like the tensors of its layers; with ``tiling`` an upper bound."""
    frames, height, width = size
    _, length, rows, columns, *_ = pipeline.latent_shape(*size)
    area = rows * columns / math.prod(SIDES)
    copied = 0
    if tiling and pipeline.vae.get("_class_name") not in PCA:
        vae = pipeline.codec.vae  # type: ignore[attr-defined]
        area *= min(vae.tile_sample_min_height / height, 1) * min(vae.tile_sample_min_width / width, 1)
        copied = COPIES * 3 * 4 * frames * height * width
    described = json.dumps(dict(pipeline.vae))
    if length <= FEW[1]:
        each = _count(pipeline, described, length)
    else:
        few, more = (_count(pipeline, described, n) for n in FEW)
        longer = (length - FEW[1]) / (FEW[1] - FEW[0])
        encode, decode = (
            b + round(longer * (b - a)) for a, b in ((few.encode, more.encode), (few.decode, more.decode))
        )
        each = Coding(more.weights, encode, decode)
    return Coding(each.weights, int(area * each.encode) + copied, int(area * each.decode) + copied)


@cache
def _count(pipeline: Pipeline, described: str, length: int) -> Coding:
    """Memory of the codec, ``described`` as JSON, on a clip of ``length`` latent frames and a few rows and columns."""
    vae, outline = json.loads(described), pipeline.codec
    name = str(vae["_class_name"])
    (_, tall, wide), frames = outline.stride, frames_of(outline, length)
    with nullcontext() if name in PCA else FakeTensorMode():
        codec = load_codec(pipeline.path / "vae") if name in PCA else vae_class(name, pipeline.where).outline(vae)
        assert isinstance(codec, nn.Module)
        tensors = [*codec.parameters(), *codec.buffers()]
        peaks = []
        for work, shape in (
            (codec.encode, (1, 3, frames, SIDES[0] * tall, SIDES[1] * wide)),
            (codec.decode, (1, codec.channels, length, *SIDES)),
        ):
            with Counter(tensors) as counter:
                work(torch.zeros(shape))
            peaks.append(counter.most)
    return Coding(sum(tensor.nbytes for tensor in tensors), *peaks)


def text_elements(config: RunConfig) -> int:
    """Elements of the text encoder: of the folder's files, else the family's published number."""
    pipeline = config.model.pipeline
    folder = pipeline.path / "text_encoder"
    if not (folder / "config.json").is_file():
        return round(pipeline.of.text_billions * 1e9)
    return sum(map(math.prod, stored_shapes(folder, "model", f"{pipeline.where}: text_encoder").values()))
