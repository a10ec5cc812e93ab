"""RAFT's optical flow (arXiv 2003.12039) by torchvision's classes, from a folder with model.safetensors."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from ray_distill.errors import ConfigError
from ray_distill.models.parts import stored_shapes

WEIGHTS = "model.safetensors"
NAMES = ("raft_large", "raft_small")
UPDATES = 20  # as VBench's dynamic degree
STRIDE, LEAST = 8, 128  # sides are whole multiples of STRIDE; RAFT's pyramid needs LEAST pixels
PAIRS = 8  # pairs of one forward


def check_raft(folder: Path, where: str) -> None:
    """ConfigError, which begins with ``where``, unless torchvision is installed and ``folder`` has a whole RAFT."""
    if find_spec("torchvision") is None:
        raise ConfigError(f"{where}: RAFT's classes are torchvision's, which is not installed: pip install torchvision")
    _name(folder, where)


def _name(folder: Path, where: str) -> str:
    """The class whose tensors the file has, by their names and shapes."""
    stored = dict(stored_shapes(folder, Path(WEIGHTS).stem, where))
    for name in NAMES:
        with torch.device("meta"):
            network = _make(name)
        if stored == {key: tuple(value.shape) for key, value in network.state_dict().items()}:
            return name
    raise ConfigError(
        f"{where}: {WEIGHTS} has not the tensors of {' or '.join(NAMES)} of torchvision; save_file of such a network's "
        "state_dict() makes it"
    )


def _make(name: str) -> Any:
    from torchvision.models import optical_flow

    return getattr(optical_flow, name)()


@lru_cache(maxsize=1)
def load_raft(folder: Path, device: torch.device) -> Raft:
    """The network of ``folder``, loaded once in a process."""
    network = _make(_name(folder, str(folder)))
    network.load_state_dict(load_file(folder / WEIGHTS))
    return Raft(network.eval().requires_grad_(False).to(device), device)


class Raft:
    """A :data:`~ray_distill.evaluate.metrics.flow.Flow` by a ``network`` of torchvision's, in fp32."""

    def __init__(self, network: Any, device: torch.device) -> None:
        self.network, self.device = network, device

    @torch.no_grad()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        height, width = frames.shape[1:3]
        grow = max(1.0, LEAST / min(height, width))
        size = [max(LEAST, round(grow * side / STRIDE) * STRIDE) for side in (height, width)]
        pixels = torch.from_numpy(frames).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        pixels = functional.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
        scale = torch.tensor([width / size[1], height / size[0]], device=self.device).reshape(2, 1, 1)
        lengths = np.empty((len(frames) - 1, height, width), np.float32)
        for first in range(0, len(frames) - 1, PAIRS):
            last = min(first + PAIRS, len(frames) - 1)
            flow = self.network(pixels[first:last], pixels[first + 1 : last + 1], num_flow_updates=UPDATES)[-1]
            for place, length in enumerate((flow * scale).norm(dim=1).cpu().numpy() / min(height, width), first):
                lengths[place] = cv2.resize(length, (width, height), interpolation=cv2.INTER_AREA)
        return lengths
