"""CausalPatchPCA: a codec without training whose first latent frame is a single picture, as in Wan's VAE."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ray_distill.models.codec import first_alone
from ray_distill.models.patch_pca import WEIGHTS, PatchPCA, save_codec


class CausalPatchPCA(nn.Module):
    """Codec of two PatchPCAs, one for the first frame and one for the blocks of frames behind it: for a patch of 4
    frames, 4n + 1 frames -> n + 1 latent frames.

    No latent frame depends on a later frame, so that a longer clip begins with the same latents. The blocks of
    ``first`` have one frame, those of ``rest`` several; both have equal rows, columns and channels.
    """

    def __init__(self, first: PatchPCA, rest: PatchPCA) -> None:
        super().__init__()
        if first.patch != (1, *rest.patch[1:]) or first.channels != rest.channels:
            raise ValueError(
                f"the first frame's patch {first.patch} and {first.channels} channels do not fit the others' patch "
                f"{rest.patch} and {rest.channels} channels"
            )
        self.first, self.rest = first, rest

    @classmethod
    def fit(
        cls, pixels: Tensor, patch: tuple[int, int, int] = (4, 4, 4), channels: int = 16, whitening: float = 1.0
    ) -> CausalPatchPCA:
        """Fit the leading ``channels`` components of ``pixels`` [N, 3, T, H, W]: those of all pictures for the first
        frame, and those of the blocks behind the first frame for the rest. ``whitening`` as in PatchPCA."""
        pictures = pixels.movedim(2, 1).flatten(0, 1)[:, :, None]
        first = PatchPCA.fit(pictures, (1, *patch[1:]), channels, whitening)
        return cls(first, PatchPCA.fit(pixels[:, :, 1:], patch, channels, whitening))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        self.latent_shape(*pixels.shape[2:])
        first = self.first.encode(pixels[:, :, :1])
        return first if pixels.shape[2] == 1 else torch.cat([first, self.rest.encode(pixels[:, :, 1:])], 2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        first = self.first.decode(latents[:, :, :1])
        return first if latents.shape[2] == 1 else torch.cat([first, self.rest.decode(latents[:, :, 1:])], 2)

    def decode_chunks(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        for number, latents in enumerate(chunks):
            yield self.rest.decode(latents) if number else self.decode(latents)

    def fitting(self, frames: int) -> tuple[int, int]:
        return first_alone(frames, self.stride[0])

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        time, rows, columns = self.stride
        below, above = self.fitting(frames)
        if below != frames:
            raise ValueError(f"frames={frames}: CausalPatchPCA takes {time}k+1 frames; use {below} or {above}")
        if height % rows or width % columns:
            raise ValueError(f"height x width = {height}x{width}: CausalPatchPCA takes multiples of {rows}x{columns}")
        return self.channels, (frames - 1) // time + 1, height // rows, width // columns

    @property
    def stride(self) -> tuple[int, int, int]:
        return self.rest.stride

    @property
    def channels(self) -> int:
        return self.rest.channels

    @property
    def config(self) -> dict[str, object]:
        return {"_class_name": "CausalPatchPCA", "patch": list(self.stride), "channels": self.channels}

    def save(self, folder: Path) -> None:
        save_codec(self, self.config, folder)

    @classmethod
    def load(cls, folder: Path) -> CausalPatchPCA:
        time, rows, columns = json.loads((folder / "config.json").read_text())["patch"]
        stored = load_file(folder / WEIGHTS)

        def part(name: str, patch: tuple[int, int, int]) -> PatchPCA:
            return PatchPCA(**{key: stored[f"{name}.{key}"] for key in ("mean", "basis", "scale")}, patch=patch)

        return cls(part("first", (1, rows, columns)), part("rest", (time, rows, columns)))
