"""Samples of one candidate and seed; samples of a network that never changes are reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ray_distill import __version__, sealed
from ray_distill.checkpoint.layout import MANIFEST
from ray_distill.config import RunConfig
from ray_distill.data.read.track import Track
from ray_distill.models.hashing import file_hash, folder_hash, weights_hash
from ray_distill.types import Sampler

MEASURE = "measure/"


@dataclass(frozen=True)
class Candidate:
    """Weights, and the recipe that samples them. ``checkpoint`` holds the trained weights of ``role``, or of the
    recipe's experts; None means the untrained sources. ``averaged``: use the average of a trained role if it has one.
    """

    role: str
    sampler: Sampler
    checkpoint: Path | None = None
    averaged: bool = True

    def __str__(self) -> str:
        """The candidate's name in messages."""
        return f"{' and '.join(self.roles)} {f'of {self.checkpoint.name}' if self.checkpoint else 'before training'}"

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles whose networks predict."""
        experts = self.sampler.experts
        return (experts.high, experts.low) if experts else (self.role,)


@dataclass(frozen=True)
class Samples:
    """The metric's features of a candidate's videos, None without a metric, and the first videos themselves."""

    features: Tensor | None
    accuracy: float | None
    diversity: float | None
    seconds_per_video: float
    videos: np.ndarray
    """uint8 [pictures, T, H, W, 3]: the first of the prompts."""
    measures: Mapping[str, Tensor] = field(default_factory=dict)
    """Measures by name: [N], one number per video."""
    video_features: Tensor | None = None
    """Features [N, D] of the video network, None without one."""
    tracks: tuple[Track, ...] = ()
    """The sound of each of ``videos``; empty where clips have none."""

    def save(self, path: Path) -> None:
        """Write the file whole or not at all: another task may look for it at the same time."""
        tensors = {"videos": self.videos}
        if self.features is not None:
            tensors["features"] = self.features.cpu().numpy()
        if self.video_features is not None:
            tensors["video_features"] = self.video_features.numpy()
        tensors |= {f"{MEASURE}{name}": values.numpy() for name, values in self.measures.items()}
        numbers = {name: getattr(self, name) for name in ("accuracy", "diversity", "seconds_per_video")}
        if self.tracks:
            tensors["sound"] = np.stack([track.samples for track in self.tracks])
            numbers["rate"] = self.tracks[0].rate
        sealed.write_tensors(path, tensors, {"numbers": json.dumps(numbers)})

    @classmethod
    def load(cls, path: Path) -> Samples:
        """Read a file of :meth:`save`; Damaged if it is another file, FileNotFoundError if it does not exist."""
        tensors, metadata = sealed.read_tensors(path)
        features, whole = (
            torch.from_numpy(tensors[name]) if name in tensors else None for name in ("features", "video_features")
        )
        numbers: dict[str, float] = json.loads(metadata["numbers"])
        rate = int(numbers.pop("rate", 0))
        tracks = tuple(Track(samples, rate) for samples in tensors.get("sound", ()))
        by_name = {name: torch.from_numpy(values) for name, values in tensors.items() if name.startswith(MEASURE)}
        measures = {name.removeprefix(MEASURE): values for name, values in by_name.items()}
        return cls(
            features=features,
            videos=tensors["videos"],
            measures=measures,
            video_features=whole,
            tracks=tracks,
            **numbers,
        )


def latents_name(config: RunConfig, candidate: Candidate, prompts: Sequence[str], seed: int) -> str:
    """Name for latents of a candidate, from all values that they depend on.

    The file stands beside the cache's embeddings of the prompts, on which the samples also depend.
    """
    return _digest(_origin(config, candidate, seed) | {"prompts": list(prompts)})


def kept_name(
    config: RunConfig,
    candidate: Candidate,
    prompts: Sequence[str],
    seed: int,
    names: Sequence[str] | None = None,
    pictured: bool = False,
) -> str | None:
    """File name for samples of a candidate that no training changes, from all values that its videos and their measures
    ``names`` depend on, ``pictured`` where a measure compares them with pictures; None for other candidates. As for
    :func:`latents_name` the file stands beside the cache."""
    settings = config.evaluate
    if candidate.checkpoint is not None or any(config.role(role).init == "random" for role in candidate.roles):
        return None
    depends = _origin(config, candidate, seed) | {
        "prompts": [list(prompts), settings.pictures],
        "metric": [folder_hash(settings.metric) if settings.metric else None, config.data.fps, *(names or ())],
    }
    if names is not None and (judges := settings.networks.folders):
        depends["networks"] = {key: folder_hash(folder) for key, folder in judges.items()}
    if names is not None and pictured:
        depends["measured_by_picture"] = True
    return f"made-{_digest(depends)}.safetensors"


def _origin(config: RunConfig, candidate: Candidate, seed: int) -> dict[str, Any]:
    """Values that a candidate's latents depend on, except the prompts."""
    settings, roles = config.evaluate, candidate.roles
    depends: dict[str, Any] = {
        "version": __version__,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "weights": [weights_hash(config.source(role), config.loras(role)) for role in roles],
        "dtypes": [config.role(role).dtype for role in roles],
        "model": [folder_hash(config.model.path), config.model.family],
        "text": [config.model.max_sequence_length, config.model.text_encoder_precision],
        "sampler": asdict(candidate.sampler),
        "seed": seed,
        "clip": config.shown_size,
    }
    if random := [role for role in roles if config.role(role).init == "random"]:
        depends["random"] = [random, config.seed]
    if candidate.checkpoint is not None:
        tensors = [config.sampled_tensors(role) if candidate.averaged else "weights" for role in roles]
        adapters = [lora and lora.model_dump(mode="json") for lora in (config.role(role).lora for role in roles)]
        depends["checkpoint"] = [file_hash(candidate.checkpoint / MANIFEST), tensors, adapters]
    if config.model.pipeline.of.sound is not None:
        depends["sound"] = True  # an earlier version kept these samples without it
    if config.model.vae_tiling:
        depends["tiles"] = True  # of pictures that videos begin from, and of their pixels
    if settings.images:
        depends["pictures"] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in settings.images.values()]
    if config.model.from_image is not None:
        depends["from_image"] = config.model.from_image
    return depends


def _digest(depends: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:32]
