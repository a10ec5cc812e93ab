"""Losses of clips with picture and sound: each modality has its own mean and weight.

L = w_video L_video + w_audio L_audio, where each L is a mean over the elements of its own modality. A mean over both
would weigh sound by its few tokens, and a common normaliser would scale the gradient of sound by the error of the
picture. One noise level and one clip of the gradient's norm serve both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ray_distill.diffusion.prefix import generated_places
from ray_distill.types import Batch


@dataclass(frozen=True, kw_only=True)
class Modalities:
    """The configuration of a method that also learns clips with sound. ``docs/methods.md`` explains each key."""

    video_weight: float = 1.0
    """Factor of the picture's loss, for clips with sound."""
    audio_weight: float = 1.0
    """Factor of the sound's loss, for clips with sound."""

    with_sound: ClassVar[bool] = True

    def check_modalities(self) -> None:
        """ValueError if a weight is below 0, or if both are 0."""
        weights = self.video_weight, self.audio_weight
        if min(weights) < 0 or not any(weights):
            raise ValueError(f"video_weight, audio_weight = {weights}: give 0 or more, and one of them above 0")

    def by_modality(self, loss: Callable[..., Tensor], batch: Batch, *latents: Tensor) -> dict[str, Tensor]:
        """Weighted ``loss`` by modality, each on its part of the generated ``latents`` [B, C, T, H, W], without the
        prefix; for a picture alone one entry named "" with the plain loss."""
        if not batch.modalities:
            return {"": loss(*latents)}
        weights = {"video": self.video_weight, "audio": self.audio_weight}
        places = generated_places(batch.modalities, batch.prefix)
        return {name: weights[name] * loss(*(x[:, :, where] for x in latents)) for name, where in places.items()}

    def weighed(self, loss: Callable[..., Tensor], batch: Batch, *latents: Tensor) -> Tensor:
        """The sum of :meth:`by_modality`."""
        return total(self.by_modality(loss, batch, *latents))


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of the losses of all modalities."""
    first, *rest = losses.values()
    for loss in rest:
        first = first + loss
    return first


def modality_logs(name: str, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Logs ``name``_<modality>_loss; none for a picture alone, whose loss already has a name."""
    return {f"{name}_{of}_loss": loss.detach().mean() for of, loss in losses.items() if of}
