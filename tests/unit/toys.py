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
    """The exact denoiser of elementwise N(mean, std^2) data (oracle 7.1). Without a mean, the prompt says it."""

    mean: Any = None
    std: Any = 0.5

    def __call__(self, x_t: Tensor, sigma: Tensor, cond: Cond) -> Prediction:
        s = column(sigma).to(x_t.dtype)
        mean = column(cond["text"]).to(x_t.dtype) if self.mean is None else self.mean
        variance = (1 - s) ** 2 * self.std**2 + s**2
        # E[eps | x_t] - E[x_0 | x_t]
        return Prediction((s - (1 - s) * self.std**2) / variance * (x_t - (1 - s) * mean) - mean)


@dataclass(frozen=True)
class Mixture:
    """The exact denoiser of an equal mixture of N(mean, std^2) (oracle 7.1)."""

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
