"""Pipeline: the facts of a pipeline's folder, each read once and shared by check, plan, prepare and build."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ray_distill.errors import ConfigError
from ray_distill.models import family as declared
from ray_distill.models.codec import PCA, Codec, load_codec, vae_class
from ray_distill.models.loading import check_folder, published_configs
from ray_distill.models.parts import read_json
from ray_distill.models.places import SECOND
from ray_distill.models.spec import Config, Family, Fields, Latent

INDEX = "model_index.json"


@dataclass(frozen=True)
class Pipeline:
    """The facts of ``path``, a folder in diffusers' format or a transformer's single file. Each fact is read once, so
    that a changed folder needs a new Pipeline."""

    family: str
    path: Path
    key: str = "model.path"
    """The configuration key that names the path, for messages."""
    from_image: bool | None = None
    """True: a video begins from an image; None: the network's own configuration decides."""

    def __getstate__(self) -> dict[str, Any]:
        """The pipeline without the facts that it has read, since another process may run on another machine."""
        return {"family": self.family, "path": self.path, "key": self.key, "from_image": self.from_image}

    @property
    def where(self) -> str:
        """``key = path``, the beginning of a message."""
        return f"{self.key} = {self.path}"

    def beside(self, path: Path, key: str) -> Pipeline:
        """The Pipeline of another folder of the same family."""
        return Pipeline(self.family, path, key, self.from_image)

    @property
    def of(self) -> Family:
        return declared(self.family)

    @cached_property
    def transformer(self) -> dict[str, Any]:
        """The transformer's configuration; ValueError where it is missing or of another family."""
        return check_folder(self.family, self.path, self.key)

    @property
    def architecture(self) -> Config:
        """The transformer's configuration; for a folder that does not exist, that of the published pipeline of the same
        name. ValueError where neither exists."""
        if self.path.exists():
            return self.transformer
        configurations = published_configs(self.of)
        name = self.path.parent.name if self.path.name == SECOND else self.path.name
        if name not in configurations:
            raise ValueError(
                f"{self.where}: no such folder. plan needs its transformer/config.json, but no weights; "
                f"without a folder it knows these names: {', '.join(configurations) or 'none'}"
            )
        configuration: Config = configurations[name]["transformer"]
        return configuration

    @cached_property
    def index(self) -> dict[str, Any]:
        """The content of model_index.json; ConfigError where there is no such file."""
        if not (self.path / INDEX).is_file():
            raise ConfigError(f"{self.where}: no {INDEX} there. Give a pipeline folder in diffusers format")
        return read_json(self.path / INDEX, self.where)

    @property
    def settings(self) -> Config:
        """``index``; for a folder without it, that of the published pipeline of the same name, else empty."""
        if (self.path / INDEX).is_file():
            return self.index
        index: Config = published_configs(self.of).get(self.path.name, {}).get("index", {})
        return index

    @cached_property
    def vae(self) -> Config:
        """The VAE's configuration: that in the folder, else that of the published pipeline of the same name, else only
        the class name of the family's VAE, with its defaults."""
        config = self.path / "vae/config.json"
        if config.is_file():
            return read_json(config, f"{self.where}: vae")
        configurations = published_configs(self.of).get(self.path.name, {})
        return configurations.get("vae", {"_class_name": self.of.parts["vae"]})

    @cached_property
    def codec(self) -> Codec:
        """The codec without weights, for its ``stride`` and ``latent_shape``; only a PCA reads its few weights."""
        name = str(self.vae.get("_class_name"))
        if name in PCA:
            return load_codec(self.path / "vae")
        with torch.device("meta"):
            return vae_class(name, f"{self.where}: vae").outline(self.vae)

    @cached_property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std) of each latent channel, by which the codec normalises, from the VAE's configuration; ConfigError
        where it does not hold them."""
        mean, std = (tuple(self.vae.get(name) or ()) for name in ("latents_mean", "latents_std"))
        name, channels = self.vae.get("_class_name"), self.codec.channels
        if not len(mean) == len(std) == channels or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
            raise ConfigError(
                f"{self.where}: vae/config.json of {name} has no latents_mean and latents_std for {channels} channels, "
                "by which latents of another tool are normalised; Wan's VAE has them. Give the videos in place of the "
                "latents"
            )
        return mean, std

    @cached_property
    def multiple(self) -> tuple[int, int]:
        """(height, width) must be multiples of these two numbers: the codec's stride times the transformer's patch."""
        (_, height, width), (rows, columns) = self.codec.stride, self.of.patch(self.transformer)
        return height * rows, width * columns

    def latent_shape(self, frames: int, height: int, width: int) -> Latent:
        """The latent shape of a video; ValueError for a size that the codec cannot take."""
        return self.codec.latent_shape(frames, height, width)

    def fields(self, tokens: int) -> Fields:
        """The fields of Cond, for prompts of at most ``tokens`` tokens."""
        return self.of.fields(self, tokens)
