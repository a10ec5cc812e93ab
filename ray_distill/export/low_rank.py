"""Approximate a student's difference to its initial weights by a LoRA, by singular values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ray_distill.export.card import CUT
from ray_distill.models.lora import LoRA

OVERSAMPLING, ITERATIONS = 16, 4  # of the randomised decomposition (Halko et al., arXiv 0909.4061)


@dataclass(frozen=True)
class LowRank:
    """A difference of weights as an adapter; ``tensors`` are those of the adapter's file, by plain name."""

    lora: LoRA
    tensors: Mapping[str, Tensor]
    errors: Mapping[str, float]
    """|D - B A| / |D| of each layer's difference D, in the Frobenius norm."""
    outside: tuple[str, ...]
    """Parameters that training changed but an adapter cannot contain: biases, norms, convolutions."""

    @property
    def summary(self) -> dict[str, str]:
        """Lines for the model card."""
        worst = max(self.errors, key=self.errors.__getitem__)
        mean = sum(self.errors.values()) / len(self.errors)
        lines = {
            CUT: f"rank {self.lora.rank}, {len(self.errors)} layers",
            "its error by layer": f"{mean:.3g} of the difference on average, {self.errors[worst]:.3g} at {worst}",
        }
        if self.outside:
            lines["changed, and not in it"] = f"{len(self.outside)} parameters, such as {self.outside[0]}"
        return lines


def low_rank(network: nn.Module, student: Mapping[str, Tensor], start: Mapping[str, Tensor], rank: int) -> LowRank:
    """The adapter of ``rank`` nearest to ``student`` - ``start``: tensors by the names in ``network``, which may be on
    the meta device.

    Each linear layer's difference D = U S V^T is cut to its ``rank`` largest singular values: B = U sqrt(S), A =
    sqrt(S) V^T in fp32 (Eckart and Young, 1936). Only one layer is in memory at a time. ValueError where no linear
    layer changed.
    """
    linear = {f"{name}.weight": name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    tensors: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    outside: list[str] = []
    for name, _ in network.named_parameters():
        difference = student[name].float() - start[name].float()
        if not difference.any():
            continue
        if name not in linear:
            outside.append(name)
            continue
        layer = linear[name]
        a, b = factors(difference, rank)
        tensors |= {f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}
        errors[layer] = float((difference - b @ a).norm() / difference.norm())
    if not errors:
        raise ValueError("no linear layer of the student differs from the network that training began with")
    return LowRank(LoRA(rank=rank, targets=tuple(errors)), tensors, errors, tuple(outside))


def factors(difference: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(A [rank, in], B [out, rank]) of the matrix of ``rank`` nearest to ``difference`` [out, in], filled with zeros
    where it has fewer singular values."""
    most = min(difference.shape)
    if 2 * (rank + OVERSAMPLING) < most:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # equal weights give equal files
            u, s, v = torch.svd_lowrank(difference, q=rank + OVERSAMPLING, niter=ITERATIONS)
    else:
        u, s, vh = torch.linalg.svd(difference, full_matrices=False)
        v = vh.T
    keep = min(rank, most)
    root = s[:keep].sqrt()
    a = torch.zeros(rank, difference.shape[1])
    b = torch.zeros(difference.shape[0], rank)
    a[:keep], b[:, :keep] = root[:, None] * v[:, :keep].T, u[:, :keep] * root
    return a, b
