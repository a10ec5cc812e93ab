"""PatchPCA: a codec for small videos and tests, without training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS = "diffusion_pytorch_model.safetensors"


class PatchPCA(nn.Module):
    """A fixed PCA of RGB blocks: latents = basis (block - mean) / scale; ``decode`` is its pseudo-inverse.

    It implements Codec as a real VAE does. ``mean`` [D], ``basis`` [C, D] with orthonormal rows and ``scale`` [C],
    where D = 3 x the pixels of a block.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, basis: Tensor, scale: Tensor, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.patch = patch
        for name, value in (("mean", mean), ("basis", basis), ("scale", scale)):
            self.register_buffer(name, value.detach().float().contiguous())

    @classmethod
    def fit(
        cls, pixels: Tensor, patch: tuple[int, int, int] = (3, 4, 4), channels: int = 16, whitening: float = 1.0
    ) -> PatchPCA:
        """Fit the leading ``channels`` components of the blocks of ``pixels`` [N, 3, T, H, W].

        With standard deviations s of the components, the scale is c s^whitening, where c makes the latents' mean square
        1. With ``whitening`` 1 every channel has variance 1; below 1, noise hides a strong component later than a weak
        one, as in pixels.
        """
        blocks = _blocks(pixels, patch).reshape(-1, 3 * patch[0] * patch[1] * patch[2])
        mean = blocks.mean(0, dtype=torch.float64)
        # Only the D x D covariance is fp64; the blocks stay fp32, since fp64 would double their memory.
        centred = blocks - mean.float()
        covariance = (centred.T @ centred).double() / len(centred)
        variances, vectors = torch.linalg.eigh(covariance)  # ascending
        variances, basis = variances[-channels:].flip(0), vectors[:, -channels:].flip(1).T
        if len(basis) < channels or variances[-1] <= 1e-6 * variances[0]:  # below is fp32 rounding, not video
            raise ValueError(f"these videos span fewer than channels={channels} directions; ask for fewer channels")
        # An eigenvector's sign is arbitrary; fixing it keeps the latents equal between machines.
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        std = variances.sqrt()
        scale = std**whitening
        return cls(mean, basis * largest.sign(), scale * (std / scale).square().mean().sqrt(), patch)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        self.latent_shape(*pixels.shape[2:])
        latents = (_blocks(pixels.float(), self.patch) - self.mean) @ (self.basis / self.scale[:, None]).T
        return latents.movedim(-1, 1).contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        blocks = latents.float().movedim(1, -1) @ (self.basis * self.scale[:, None]) + self.mean
        return _unblocks(blocks, self.patch).clamp(-1, 1)

    def decode_chunks(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        yield from map(self.decode, chunks)

    def fitting(self, frames: int) -> tuple[int, int]:
        below, above = max(frames // self.patch[0], 1), max(-(-frames // self.patch[0]), 1)
        return below * self.patch[0], above * self.patch[0]

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        size = (frames, height, width)
        if any(have % want for have, want in zip(size, self.patch, strict=True)):
            near = tuple(max(have // want, 1) * want for have, want in zip(size, self.patch, strict=True))
            raise ValueError(
                f"frames x height x width = {size} must be multiples of PatchPCA's patch {self.patch}, such as {near}"
            )
        t, h, w = (have // want for have, want in zip(size, self.patch, strict=True))
        return len(self.basis), t, h, w

    @property
    def stride(self) -> tuple[int, int, int]:
        return self.patch

    @property
    def channels(self) -> int:
        return len(self.basis)

    @property
    def config(self) -> dict[str, object]:
        return {"_class_name": "PatchPCA", "patch": list(self.patch), "channels": len(self.basis)}

    def save(self, folder: Path) -> None:
        save_codec(self, self.config, folder)

    @classmethod
    def load(cls, folder: Path) -> PatchPCA:
        config = json.loads((folder / "config.json").read_text())
        return cls(**load_file(folder / WEIGHTS), patch=tuple(config["patch"]))


def save_codec(codec: nn.Module, config: Mapping[str, object], folder: Path) -> None:
    """Write config.json and the weights in diffusers' layout of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(codec.state_dict(), folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _blocks(pixels: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """[B, 3, T, H, W] -> [B, t, h, w, 3 pt ph pw]."""
    pt, ph, pw = patch
    b, c, frames, height, width = pixels.shape
    cut = pixels.reshape(b, c, frames // pt, pt, height // ph, ph, width // pw, pw)
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


def _unblocks(blocks: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """[B, t, h, w, 3 pt ph pw] -> [B, 3, T, H, W]."""
    pt, ph, pw = patch
    b, t, h, w, _ = blocks.shape
    cut = blocks.reshape(b, t, h, w, 3, pt, ph, pw).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return cut.reshape(b, 3, t * pt, h * ph, w * pw)
