"""Count activation bytes and FLOPs of one forward and backward, on tensors without data.

The network runs under PyTorch's FakeTensorMode with the real shapes, which counts saved tensors of autograd, recomputed
ones of checkpointing, and temporary ones. PyTorch chooses a CPU's kernels: attention is fused as on a GPU, RMSNorm is
not, so its bytes are an upper bound.
"""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ray_distill.models import family
from ray_distill.models.conditions import empty
from ray_distill.models.packed import tensor_shape
from ray_distill.models.sequence import Ranks, split
from ray_distill.models.spec import Field, Latent
from ray_distill.plan.forwards import Causal
from ray_distill.plan.network import build
from ray_distill.types import Cache, Cond, History

aten = torch.ops.aten
FLOPS = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        aten._scaled_dot_product_flash_attention_backward
    ],
}


@dataclass(frozen=True)
class Workload:
    """One call of a network: ``architecture`` is its config as JSON, ``latent`` (C, t, h, w) its clip, ``fields`` are
    the fields of Cond by name."""

    family: str
    architecture: str
    dtype: str
    gradient_checkpointing: bool
    rows: int
    latent: Latent
    fields: tuple[tuple[str, Field], ...]
    grad: bool
    trained: bool = True
    """Whether gradients go to the weights; otherwise only to the input."""
    causal: Causal | None = None
    sequence: int = 1
    """Ranks that share the tokens."""


@dataclass(frozen=True)
class Pass:
    """Live bytes without weights and their gradients: after the forward, and the peaks of the forward and the
    backward."""

    saved: int
    forward: int
    backward: int
    flops: int
    backward_flops: int
    sent: int
    """Bytes sent to the ranks that share the tokens, including the backward's."""


@cache
def count(work: Workload) -> Pass:
    """Count a call of a whole transformer from runs with one and two blocks: blocks are equal, so the others cost the
    same as the second."""
    described = json.loads(work.architecture)
    layers = described.get("num_layers", 0)
    if layers <= 2:
        return run(work, described)
    one, two = (astuple(run(work, described | {"num_layers": n})) for n in (1, 2))
    return Pass(*(a + (layers - 1) * (b - a) for a, b in zip(one, two, strict=True)))


def run(work: Workload, described: dict[str, Any]) -> Pass:
    """Count one call of the whole network."""
    dtype = getattr(torch, work.dtype)
    with FakeTensorMode():
        with default_dtype(dtype):
            network = build(work.family, described)
        if work.gradient_checkpointing:
            network.enable_gradient_checkpointing()  # type: ignore[operator]
        for p in network.parameters():
            p.requires_grad_(work.grad and work.trained)
            if p.requires_grad:  # gradients count as state
                p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        ranks = Imagined(work.sequence) if work.sequence > 1 else None
        split(network, ranks, family(work.family).exchange_heads)
        denoiser = family(work.family).denoiser(network, dtype)
        x_t, cond = torch.empty(work.rows, *tensor_shape(work.latent)), conditions_of(work)
        by_frame = work.causal is not None and work.causal.past is None  # each chunk has a level of its own
        sigma = torch.empty(work.rows, work.latent[1]) if by_frame else torch.empty(work.rows)
        x_t.requires_grad_(work.grad and not work.trained)
        sight, past = seen_by(work, described)
        inputs = [*network.parameters(), *network.buffers(), *past]
        with Counter(inputs) as counter, torch.set_grad_enabled(work.grad):
            velocity = denoiser(x_t, sigma, cond, **sight).velocity
            saved, forward, flops = counter.now, counter.most, counter.flops
            counter.most = 0
            if work.grad:
                velocity.backward(torch.ones_like(velocity))
    return Pass(saved, forward, counter.most, flops, counter.flops - flops, ranks.sent if ranks else 0)


class _Exchanged(torch.autograd.Function):
    """A collective of :class:`Imagined`: it maps ``x`` to ``shape``, and the gradient back, without data and peers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, ...], ranks: Imagined) -> Tensor:
        ctx.shape, ctx.ranks = x.shape, ranks
        ranks.send(max(x.nbytes, x.nbytes * math.prod(shape) // x.numel()))
        return x.new_empty(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        g = gradients[0].clone(memory_format=torch.contiguous_format)  # pieces are concatenated
        ctx.ranks.send(g.nbytes)
        return g.new_empty(ctx.shape), None, None


class Imagined(Ranks):
    """``size`` ranks of which only the first exists: shapes and bytes are right, and nothing is sent."""

    size: int = 1
    rank: int = 0
    sent: int = 0

    def __init__(self, size: int) -> None:
        self.__dict__.update(size=size, sent=0)

    def send(self, whole: int) -> None:
        """Count a tensor of ``whole`` bytes, of which a rank sends all but its own piece."""
        self.__dict__["sent"] += whole * (self.size - 1) // self.size

    def swap(self, x: Tensor) -> Tensor:
        out: Tensor = _Exchanged.apply(x, tuple(x.shape), self)
        return out

    def gather(self, x: Tensor) -> Tensor:
        out: Tensor = _Exchanged.apply(x, (x.shape[0], x.shape[1] * self.size, *x.shape[2:]), self)
        return out


def conditions_of(work: Workload) -> Cond:
    """Conditions of a call; a field with the clip's length ends at the call's last frame."""
    channels, frames, *rest = work.latent
    before = work.causal.before if work.causal else 0
    return empty(dict(work.fields), work.rows, (channels, before + frames, *rest))


def seen_by(work: Workload, described: dict[str, Any]) -> tuple[dict[str, Any], list[Tensor]]:
    """Causal arguments of a call, and the keys and values in its cache."""
    causal, past = work.causal, list[Tensor]()
    if causal is None:
        return {}, past
    if causal.past is None:
        _, frames, *_ = work.latent
        history = History(torch.empty(work.rows, *work.latent), torch.empty(work.rows, frames))
        return {
            "chunks": causal.chunks,
            "window": causal.window,
            "history": history if causal.history else None,
        }, past
    height, width = family(work.family).patch(described)
    tokens = work.latent[2] // height * (work.latent[3] // width)
    heads = (int(described["num_attention_heads"]) // work.sequence, int(described["attention_head_dim"]))
    cache = Cache(causal.before, {}, causal.window)
    for start, end in causal.past:
        shape = (work.rows, tokens * (end - start), *heads)
        empty = partial(torch.empty, shape, dtype=getattr(torch, work.dtype))
        layers = [(empty(), empty()) for _ in range(described["num_layers"])]
        cache.chunks[start, end] = tuple(layers)
        past += [x for layer in layers for x in layer]
    return {"chunks": causal.chunks, "cache": cache, "remember": causal.remember}, past


class Counter(TorchDispatchMode):
    """Counter of the live bytes of new storages, their peak, and FLOPs; it leaves out ``inputs``."""

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = self.flops = 0
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in inputs)

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = op(*args, **(kwargs or {}))
        if op.overloadpacket in FLOPS:
            self.flops += FLOPS[op.overloadpacket](*args, **(kwargs or {}), out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._seen:
                self._seen.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._free, storage.nbytes())
        return out

    def _free(self, size: int) -> None:
        self.now -= size


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
