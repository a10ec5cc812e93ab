"""Pixels to latents and back: the seam that the Wan VAE and the tiny PatchPCA stand behind.

Latents leave a codec normalised (each channel about zero mean and unit variance), as the denoiser wants them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ray_distill.models.ltx import LTXVAE

WEIGHTS = "diffusion_pytorch_model.safetensors"


class Codec(Protocol):
    """What turns videos into latents; frozen, without gradients."""

    def encode(self, pixels: Tensor) -> Tensor:
        """``pixels`` [B, 3, T, H, W] in [-1, 1] -> normalised latents fp32 [B, C, t, h, w]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, t, h, w] -> pixels fp32 [B, 3, T, H, W] in [-1, 1]."""
        ...

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, t, h, w) of a video; ValueError where the codec cannot take that size."""
        ...

    @property
    def stride(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels for one of latents."""
        ...

    def to(self, device: torch.device | str) -> Self: ...


class PatchPCA(nn.Module):
    """A fixed, whitened PCA of RGB blocks: latents = basis (block - mean) / scale, decode is its pseudo-inverse.

    For laptop-sized videos and tests: no training, and the same seam as a real VAE. ``mean`` [D], ``basis`` [C, D]
    with orthonormal rows and ``scale`` [C], the standard deviations, where D = 3 x the pixels of a block.
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
    def fit(cls, pixels: Tensor, patch: tuple[int, int, int] = (3, 4, 4), channels: int = 16) -> PatchPCA:
        """The leading ``channels`` components of the blocks of ``pixels`` [N, 3, T, H, W]."""
        blocks = _blocks(pixels, patch).reshape(-1, 3 * patch[0] * patch[1] * patch[2])
        mean = blocks.mean(0, dtype=torch.float64)
        # Blocks stay fp32 and only the D x D covariance is fp64: a data set of blocks in fp64 would double the memory.
        centred = blocks - mean.float()
        covariance = (centred.T @ centred).double() / len(centred)
        variances, vectors = torch.linalg.eigh(covariance)  # ascending
        variances, basis = variances[-channels:].flip(0), vectors[:, -channels:].flip(1).T
        if len(basis) < channels or variances[-1] <= 1e-6 * variances[0]:  # below is fp32 rounding, not video
            raise ValueError(f"these videos span fewer than channels={channels} directions; ask for fewer channels")
        # An eigenvector's sign is free; fixing it keeps the latents equal between machines.
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        return cls(mean, basis * largest.sign(), variances.sqrt(), patch)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        self.latent_shape(*pixels.shape[2:])
        latents = (_blocks(pixels.float(), self.patch) - self.mean) @ (self.basis / self.scale[:, None]).T
        return latents.movedim(-1, 1).contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        blocks = latents.float().movedim(1, -1) @ (self.basis * self.scale[:, None]) + self.mean
        return _unblocks(blocks, self.patch).clamp(-1, 1)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        size = (frames, height, width)
        if any(have % want for have, want in zip(size, self.patch, strict=True)):
            raise ValueError(f"frames x height x width = {size} must be multiples of PatchPCA's patch {self.patch}")
        t, h, w = (have // want for have, want in zip(size, self.patch, strict=True))
        return len(self.basis), t, h, w

    @property
    def stride(self) -> tuple[int, int, int]:
        return self.patch

    @property
    def config(self) -> dict[str, object]:
        return {"_class_name": "PatchPCA", "patch": list(self.patch), "channels": len(self.basis)}

    def save(self, folder: Path) -> None:
        """Writes config.json and the weights, in diffusers' folder habits."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / WEIGHTS)
        (folder / "config.json").write_text(json.dumps(self.config, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> PatchPCA:
        config = json.loads((folder / "config.json").read_text())
        return cls(**load_file(folder / WEIGHTS), patch=tuple(config["patch"]))


class WanVAE(nn.Module):
    """diffusers' AutoencoderKLWan with Wan's normalisation, latents = (mode - latents_mean) / latents_std."""

    mean: Tensor
    std: Tensor

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        per_channel = (1, vae.config.z_dim, 1, 1, 1)
        self.register_buffer("mean", torch.tensor(vae.config.latents_mean).view(per_channel), persistent=False)
        self.register_buffer("std", torch.tensor(vae.config.latents_std).view(per_channel), persistent=False)

    @classmethod
    def load(cls, folder: Path) -> WanVAE:
        """fp32, as Wan's authors run it: in half precision its causal convolutions lose visible detail."""
        vae = AutoencoderKLWan.from_pretrained(
            folder, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        return cls(vae)

    @classmethod
    def outline(cls, described: Mapping[str, Any]) -> WanVAE:
        """Of a configuration alone, whose defaults are Wan 2.1's, on the device that surrounds the call."""
        return cls(AutoencoderKLWan.from_config(dict(described)))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        self.latent_shape(*pixels.shape[2:])
        latents = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float()
        return (latents - self.mean) / self.std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.float() * self.std + self.mean
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0].float().clamp(-1, 1)

    @property
    def stride(self) -> tuple[int, int, int]:
        space = self.vae.config.scale_factor_spatial
        return self.vae.config.scale_factor_temporal, space, space

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        time, space, _ = self.stride
        if frames % time != 1:
            below = max(frames - 1, 0) // time * time + 1
            raise ValueError(f"frames={frames}: the Wan VAE takes {time}k+1 frames; use {below} or {below + time}")
        if height % space or width % space:
            raise ValueError(f"height x width = {height}x{width}: the Wan VAE takes multiples of {space}")
        return self.vae.config.z_dim, (frames - 1) // time + 1, height // space, width // space


CODECS: dict[str, Any] = {"PatchPCA": PatchPCA, "AutoencoderKLWan": WanVAE, "AutoencoderKLLTXVideo": LTXVAE}


def load_codec(folder: Path) -> Codec:
    """The codec of a ``vae`` folder, chosen by ``_class_name`` in its config.json."""
    config = Path(folder) / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{folder} is no codec: it has no config.json")
    name = json.loads(config.read_text()).get("_class_name")
    if name not in CODECS:
        raise ValueError(
            f"{folder}: _class_name {name!r} is no codec that ray_distill knows; it knows {sorted(CODECS)}"
        )
    codec: Codec = CODECS[name].load(Path(folder))
    return codec


@cache
def outline(folder: Path) -> Codec:
    """The codec of a ``vae`` folder for its ``stride`` and ``latent_shape`` alone; Wan's published one where there is
    no folder. No weights are read but PatchPCA's few."""
    config = folder / "config.json"
    described = json.loads(config.read_text()) if config.is_file() else {}
    name = described.get("_class_name", "AutoencoderKLWan")
    if not hasattr(CODECS.get(name), "outline"):
        return load_codec(folder)
    with torch.device("meta"):
        codec: Codec = CODECS[name].outline(described)
    return codec


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
