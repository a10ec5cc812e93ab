"""Memory, speed and assumed price of GPUs; clusters written as `8xH100-80GB` or `2x8xH100-80GB`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ray_distill.config.keys import nearest

GIB = 1 << 30


@dataclass(frozen=True)
class GPU:
    """A GPU: ``memory`` in GiB, dense peaks in FLOP/s, ``price`` in USD per hour (an assumption, no offer)."""

    memory: int
    bfloat16: float
    float32: float
    price: float

    def peak(self, dtype: str) -> float:
        return float(getattr(self, dtype))


# Memory and dense peaks (half of what a sheet says "with sparsity") by NVIDIA's data sheets: H100, H200 and A100 Tensor
# Core GPU (SXM), HGX B200, L40S; RTX 4090 by the Ada architecture's white paper, with fp32 accumulation. fp32 is
# without TF32, PyTorch's default. Prices are round figures for rented GPUs.
GPUS = {
    "H100-80GB": GPU(80, 989e12, 67e12, 3.0),
    "H200-141GB": GPU(141, 989e12, 67e12, 4.0),
    "B200-180GB": GPU(180, 2250e12, 75e12, 6.0),
    "A100-80GB": GPU(80, 312e12, 19.5e12, 2.0),
    "A100-40GB": GPU(40, 312e12, 19.5e12, 1.5),
    "L40S-48GB": GPU(48, 362e12, 91.6e12, 1.0),
    "RTX4090-24GB": GPU(24, 165e12, 82.6e12, 0.5),
}
FORM = re.compile(r"(?:([1-9]\d*)x)?([1-9]\d*)x(.+)")


@dataclass(frozen=True)
class Cluster:
    """``nodes`` machines of ``per_node`` equal GPUs."""

    nodes: int
    per_node: int
    name: str
    gpu: GPU

    @property
    def gpus(self) -> int:
        return self.nodes * self.per_node

    def __str__(self) -> str:
        return f"{f'{self.nodes}x' if self.nodes > 1 else ''}{self.per_node}x{self.name}"

    def of(self, gpus: int) -> Cluster:
        """The cluster of as many such machines as ``gpus`` need."""
        nodes = -(-gpus // self.per_node)
        return replace(self, nodes=nodes, per_node=gpus if nodes == 1 else self.per_node)


def parse_cluster(text: str) -> Cluster:
    """Cluster of ``8xH100-80GB`` or, with nodes, ``2x8xH100-80GB``; ValueError names the mistake in ``text``."""
    match = FORM.fullmatch(text)
    if match is None:
        raise ValueError(
            f"cluster = {text!r}: write [NODESx]GPUSxNAME-MEMORYGB, for example 8xH100-80GB or 2x8xH100-80GB"
        )
    nodes, per_node, name = match.groups()
    if name not in GPUS:
        raise ValueError(f"cluster = {text!r}: no data sheet for {name!r}; {nearest(name, GPUS)}")
    return Cluster(int(nodes or 1), int(per_node), name, GPUS[name])
