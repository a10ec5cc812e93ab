"""Ray Data actor that holds a teacher and samples clips of prompts into a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ray_distill.data.prepare.encode import Batch
from ray_distill.data.source import Teacher
from ray_distill.data.store.cache import padded
from ray_distill.data.store.parquet import Place, Store
from ray_distill.diffusion.samplers import halting, trajectory
from ray_distill.diffusion.timesteps import euler_timesteps
from ray_distill.models import family
from ray_distill.models.loading import load_transformer
from ray_distill.rng import StatelessRng

PURPOSE = "teacher_clips"


class MakeClips:
    """An actor with a teacher: rows with ``id`` and the place of their text -> ``latents``, and the ``states``
    [K, C, T, H, W] at ``teacher.levels`` on the way to them.

    ``uncond`` is the place of the negative prompt. The noise of a row belongs to its id, whatever batch it comes in.
    """

    def __init__(
        self,
        family_name: str,
        folder: Path,
        teacher: Teacher,
        shape: Sequence[int],
        text_shape: Sequence[int],
        text: Store,
        uncond: Place,
    ) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.teacher, self.shape, self.text, self.text_shape = teacher, shape, text, text_shape
        dtype = getattr(torch, teacher.dtype)
        network = load_transformer(family_name, folder, dtype).to(self.device).eval().requires_grad_(False)
        self.denoise = family(family_name).denoiser(network, dtype)
        self.sampler = halting(euler_timesteps(teacher.steps, teacher.shift), teacher.levels, teacher.guidance)
        self.uncond = self._embedded([uncond])

    def __call__(self, rows: Batch) -> dict[str, Any]:
        places = [Place(*place) for place in zip(*(rows[f"text_{part}"] for part in Place._fields), strict=True)]
        text = self._embedded(places)
        # The whole id would not fit into a noise stream's 64 bits.
        ids = torch.tensor([int(id_[:15], 16) for id_ in rows["id"]], device=self.device)
        x_T = StatelessRng(self.teacher.seed).noise(PURPOSE, ids, self.shape)
        uncond = {"text": self.uncond.expand_as(text)}
        levels = self.teacher.levels
        *states, x_0 = trajectory(self.denoise, self.sampler, x_T, {"text": text}, uncond, levels)
        errors = ["" if torch.isfinite(x).all() else "the teacher's latents are not finite" for x in x_0]
        made = {"id": list(rows["id"]), "error": errors, "latents": _bytes(x_0)}
        return made | {"states": _bytes(torch.stack(states, dim=1))} if levels else made

    def _embedded(self, places: Sequence[Place]) -> torch.Tensor:
        """[B, L, D] fp32."""
        text = [padded(tokens, self.text_shape) for tokens in self.text.read(places, "text")]
        return torch.from_numpy(np.stack(text)).to(self.device)


def _bytes(batch: torch.Tensor) -> list[bytes]:
    return [np.ascontiguousarray(x).tobytes() for x in batch.float().cpu().numpy()]
