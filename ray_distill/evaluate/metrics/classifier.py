"""Metric: a small video classifier, whose accuracy tells whether samples show their prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ray_distill.data.read.transform import to_pixels
from ray_distill.errors import ConfigError
from ray_distill.models.parts import check_stored, read_json, stored_shapes
from ray_distill.settings import Section

WEIGHTS = "model.safetensors"
Pooling = Literal["mean", "max"]


class Metric(nn.Module):
    """A video classifier with one head per question about the prompt.

    ``heads`` maps a head to its class words (``{"digit": ["zero", ...]}``): a video answers its prompt if every head's
    word is one of the prompt's words. Heads with equal words ask for them in the prompt's order: in "a red five behind
    a blue three" the first digit is five. ``size`` (T, H, W) is the size of its training, and the only one that it
    takes. ``window`` is the side of the last convolution's kernel. ``pooling`` "mean" averages its values over space
    and time; "max" takes the largest over space before it averages over time, which finds a small object at any place.
    """

    def __init__(
        self,
        heads: Mapping[str, Sequence[str]],
        size: tuple[int, int, int],
        channels: tuple[int, int, int] = (10, 20, 64),
        window: int = 4,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        self.words = {head: tuple(words) for head, words in heads.items()}
        self.size, self.channels = tuple(size), tuple(channels)
        self.window, self.pooling = window, pooling
        first, second, last = self.channels
        self.trunk = nn.Sequential(
            nn.Conv3d(3, first, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv3d(first, second, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv3d(second, last, (1, window, window)),
            nn.ReLU(),
            *([nn.AdaptiveMaxPool3d((None, 1, 1))] if pooling == "max" else []),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
        )
        self.heads = nn.ModuleDict({head: nn.Linear(last, len(words)) for head, words in self.words.items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits [B, classes] per head of pixels [B, 3, T, H, W]; with gradients, for training."""
        features = self.trunk(pixels)
        return {head: layer(features) for head, layer in self.heads.items()}

    @torch.no_grad()
    def features(self, videos: np.ndarray | Tensor, batch: int = 256) -> Tensor:
        """fp32 [B, channels[-1]] of uint8 frames [B, T, H, W, 3] or pixels [B, 3, T, H, W] in [-1, 1]."""
        videos = torch.as_tensor(videos)
        pixels = to_pixels(videos) if videos.dtype == torch.uint8 else videos
        if pixels.ndim != 5 or tuple(pixels.shape[2:]) != self.size:
            raise ValueError(f"this metric takes videos of (T, H, W) = {self.size}, got {tuple(videos.shape)}")
        return torch.cat([self.trunk(part.float()) for part in pixels.split(batch)])

    @torch.no_grad()
    def classify(self, videos: np.ndarray | Tensor) -> list[tuple[str, ...]]:
        """One word per head for each video, in the order of ``words``."""
        return self._words(self.features(videos))

    def _words(self, features: Tensor) -> list[tuple[str, ...]]:
        predictions = [[words[i] for i in self.heads[head](features).argmax(1)] for head, words in self.words.items()]
        return list(zip(*predictions, strict=True))

    def accuracy(self, videos: np.ndarray | Tensor, prompts: Sequence[str], features: Tensor | None = None) -> float:
        """Share of videos whose every predicted word is in their prompt; ``features`` are theirs, if known already."""
        if len(videos) != len(prompts):
            raise ValueError(f"{len(videos)} videos and {len(prompts)} prompts: each video needs its own prompt")
        answers = [self.answers(prompt) for prompt in prompts]
        for prompt in prompts:
            if head := self.head_without_answer(prompt):
                words = ", ".join(self.words[head])
                raise ValueError(f"prompt {prompt!r} names no {head}: it must contain one of {words}")
        predictions = self.classify(videos) if features is None else self._words(features)
        right = [
            all(word in answer for word, answer in zip(predicted, answer.values(), strict=True))
            for predicted, answer in zip(predictions, answers, strict=True)
        ]
        return float(np.mean(right))

    def answers(self, prompt: str) -> dict[str, frozenset[str]]:
        """Words of each head that answer the prompt: any of its words in the prompt or, if several heads have equal
        words, the k-th such word for the k-th head."""
        spoken = prompt.lower().split()
        answers: dict[str, frozenset[str]] = {}
        for head, words in self.words.items():
            alike = [other for other, others in self.words.items() if others == words]
            hits = [word for word in spoken if word in words]
            place = alike.index(head)
            answers[head] = frozenset(hits if len(alike) == 1 else hits[place : place + 1])
        return answers

    def head_without_answer(self, prompt: str) -> str | None:
        """The first head without an answer in the prompt."""
        return next((head for head, words in self.answers(prompt).items() if not words), None)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / WEIGHTS)
        config: dict[str, object] = {"heads": self.words, "size": self.size, "channels": self.channels}
        config |= {"window": self.window, "pooling": self.pooling}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def checked(cls, folder: Path, where: str) -> Metric:
        """The metric on the meta device, from config.json and the header of the weights; ConfigError, which
        begins with ``where``, for a file that :meth:`load` could not read, or for clips too small for its layers."""
        described = read_json(folder / "config.json", where)
        try:
            described = _Description.model_validate(described).model_dump()
        except ValidationError as error:
            key = ".".join(map(str, error.errors()[0]["loc"]))
            raise ConfigError(f"{where}: config.json: {key}: {error.errors()[0]['msg']}") from None
        with torch.device("meta"):
            metric = cls(**described)
        shapes = {name: tuple(value.shape) for name, value in metric.state_dict().items()}
        check_stored(stored_shapes(folder, Path(WEIGHTS).stem, where), shapes, where)
        seen = [(side + 3) // 4 for side in metric.size[1:]]  # both convolutions of stride 2 round up
        if min(seen) < metric.window:
            raise ConfigError(
                f"{where}: its layers take no clips of {metric.size}: they leave {seen[0]} x {seen[1]} places, and its "
                f"window has {metric.window} x {metric.window}"
            )
        return metric

    @classmethod
    def load(cls, folder: Path) -> Metric:
        """The metric, frozen and in evaluation mode."""
        config = json.loads((Path(folder) / "config.json").read_text())
        metric = cls(**config)
        metric.load_state_dict(load_file(Path(folder) / WEIGHTS))
        return metric.eval().requires_grad_(False)


class _Description(Section):
    """A metric's config.json."""

    heads: Annotated[dict[str, Annotated[tuple[str, ...], Field(min_length=1)]], Field(min_length=1)]
    size: tuple[PositiveInt, PositiveInt, PositiveInt]
    channels: tuple[PositiveInt, PositiveInt, PositiveInt]
    window: PositiveInt = 4
    pooling: Pooling = "mean"
