"""What several unit tests stand on: a denoiser that is exact, a batch, a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ray_distill.config import RunConfig
from ray_distill.config.keys import set_dotted
from ray_distill.types import Batch, Cond, Prediction


def column(values: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1, 1]"""
    return values.reshape(-1, 1, 1, 1, 1)


@dataclass(frozen=True)
class Gaussian:
    """The exact denoiser of elementwise N(mean, std^2) data (oracle 1). Without a mean, the prompt says it."""

    mean: Any = None
    std: Any = 0.5

    def __call__(self, x_t: Tensor, sigma: Tensor, cond: Cond) -> Prediction:
        s = column(sigma).to(x_t.dtype)
        mean = column(cond["text"]).to(x_t.dtype) if self.mean is None else self.mean
        variance = (1 - s) ** 2 * self.std**2 + s**2
        # E[eps | x_t] - E[x_0 | x_t]
        return Prediction((s - (1 - s) * self.std**2) / variance * (x_t - (1 - s) * mean) - mean)

    def flow_map(self, x_t: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """Where the exact ODE takes x_t (oracle 9): (1 - r) m + sqrt(D(r) / D(sigma)) (x_t - (1 - sigma) m)."""
        s, r = (column(level).to(x_t.dtype) for level in (sigma, sigma_next))
        variance, after = ((1 - level) ** 2 * self.std**2 + level**2 for level in (s, r))
        return (1 - r) * self.mean + (after / variance).sqrt() * (x_t - (1 - s) * self.mean)


@dataclass(frozen=True)
class ExactMap:
    """The student whose consistency function is the exact flow map of ``data`` to the level ``end``; at it v is 0."""

    data: Gaussian
    end: float = 0.0

    def __call__(self, x_t: Tensor, sigma: Tensor, cond: Cond) -> Prediction:
        end = torch.full_like(sigma, self.end)
        width = column(sigma - end).to(x_t.dtype)
        velocity = (x_t - self.data.flow_map(x_t, sigma, end)) / torch.where(width > 0, width, 1)
        return Prediction(velocity)


@dataclass(frozen=True)
class Mixture:
    """The exact denoiser of an equal mixture of N(mean, std^2) (oracle 1)."""

    means: tuple[float, ...]
    std: float

    def __call__(self, x_t: Tensor, sigma: Tensor, cond: Cond) -> Prediction:
        s = column(sigma).to(x_t.dtype)
        variance = (1 - s) ** 2 * self.std**2 + s**2
        offsets = torch.stack([x_t - (1 - s) * mean for mean in self.means])
        weights = (-(offsets**2) / (2 * variance)).softmax(0)
        modes = torch.stack([Gaussian(mean, self.std)(x_t, sigma, cond).velocity for mean in self.means])
        return Prediction((weights * modes).sum(0))


def batch(ids: Any = range(4), shape: tuple[int, int, int, int] = (1, 1, 2, 2), **kwargs: Any) -> Batch:
    """Prompts 1.0, null prompts 0.0."""
    sample_ids = torch.tensor(list(ids))
    text = torch.ones(len(sample_ids), 1, 1)
    given = {"cond": {"text": text}, "uncond": {"text": 0 * text}} | kwargs
    return Batch(sample_ids, shape, **given)


def settings(folder: Path, **dotted: Any) -> dict[str, Any]:
    """A small DMD run in ``folder``; ``train__steps=3`` sets train.steps."""
    tree: dict[str, Any] = {
        "name": "run",
        "output_dir": str(folder / "output"),
        "model": {"path": str(folder / "model")},
        "method": {"name": "dmd", "student_interval": 5},
        "roles": {
            "student": {"optimizer": {"learning_rate": 1e-4}},
            "fake_score": {"optimizer": {"learning_rate": 1e-4}},
        },
        "data": {"manifest": str(folder / "manifest.jsonl"), "frames": 9, "height": 24, "width": 24},
        "train": {"steps": 800, "global_batch": 8, "micro_batch": 2, "workers": 2},
    }
    for key, value in dotted.items():
        set_dotted(tree, key.replace("__", "."), value)
    return tree


def run_config(folder: Path, **dotted: Any) -> RunConfig:
    return RunConfig.model_validate(settings(folder, **dotted))
