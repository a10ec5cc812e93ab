"""Prepare frames for a network as its folder's preprocessor says: resize, crop the middle, normalise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ray_distill.errors import ConfigError
from ray_distill.models.parts import read_json

FILES = ("preprocessor_config.json", "video_preprocessor_config.json")
FILTERS = {2: "bilinear", 3: "bicubic"}  # PIL's numbers
LARGEST = 4096  # pixels of a side


@dataclass(frozen=True)
class Frames:
    """Size, crop and normalisation of a network's frames."""

    size: int | tuple[int, int]
    """Short side, or (height, width), to which frames are resized."""
    crop: tuple[int, int] | None
    """(height, width) of the middle that is cut out."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str

    @classmethod
    def read(cls, folder: Path, where: str) -> Frames:
        """Read preprocessor_config.json, or V-JEPA 2's video_preprocessor_config.json; ConfigError, which begins with
        ``where``, for what is missing there."""
        path = next((folder / name for name in FILES if (folder / name).is_file()), None)
        if path is None:
            raise ConfigError(
                f"{where}: no {FILES[0]} in {folder}, which says how its frames are prepared; copy it too"
            )
        config = read_json(path, where)
        try:
            crop = _pair(config["crop_size"]) if config.get("do_center_crop", "crop_size" in config) else None
            size = _size(config["size"])
            mean, std = (tuple(float(value) for value in config[key]) for key in ("image_mean", "image_std"))
            mode = FILTERS[config.get("resample", 2)]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {path.name} has no valid {error}; copy it again") from None
        sides = [*(crop or ()), *(size if isinstance(size, tuple) else (size,))]
        if len(mean) != 3 or len(std) != 3 or not all(each > 0 for each in std):
            raise ConfigError(f"{where}: {path.name}: image_mean and image_std need three numbers, above 0 for std")
        if not all(0 < side <= LARGEST for side in sides):
            raise ConfigError(f"{where}: {path.name}: sides of {sides} pixels; 1 to {LARGEST} are taken")
        return cls(size, crop, mean, std, mode)

    def __call__(self, frames: Tensor, device: torch.device) -> Tensor:
        """Pixels fp32 [T, 3, h, w] of the uint8 ``frames`` [T, H, W, 3]."""
        pixels = frames.to(device).permute(0, 3, 1, 2).float()
        height, width = self.size if isinstance(self.size, tuple) else _short(pixels.shape[2:], self.size)
        pixels = functional.interpolate(pixels, (height, width), mode=self.mode, antialias=True).clamp(0, 255)
        if self.crop is not None:
            pixels = _middle(pixels, *self.crop)
        mean, std = (torch.tensor(each, device=device).reshape(3, 1, 1) for each in (self.mean, self.std))
        return (pixels / 255 - mean) / std


def _short(shape: torch.Size, side: int) -> tuple[int, int]:
    """(height, width) with ``side`` as the shorter of them, as transformers rounds the longer."""
    height, width = shape
    return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)


def _middle(pixels: Tensor, height: int, width: int) -> Tensor:
    """The middle of ``pixels``; black stands where they are smaller."""
    down, across = max(height - pixels.shape[2], 0), max(width - pixels.shape[3], 0)
    pixels = functional.pad(pixels, (across // 2, across - across // 2, down // 2, down - down // 2))
    top, left = (pixels.shape[2] - height) // 2, (pixels.shape[3] - width) // 2
    return pixels[:, :, top : top + height, left : left + width]


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, Mapping):
        return int(value["height"]), int(value["width"])
    return int(value), int(value)


def _size(value: Any) -> int | tuple[int, int]:
    if isinstance(value, Mapping):
        return int(value["shortest_edge"]) if "shortest_edge" in value else _pair(value)
    return int(value)
