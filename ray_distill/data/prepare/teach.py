"""Ray Data actor with a teacher, which samples clips of prompts for a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ray_distill.data.encoders import Encoders
from ray_distill.data.prepare.encode import Batch
from ray_distill.data.source import Teacher
from ray_distill.data.store.cache import KINDS, Shape
from ray_distill.data.store.parquet import Place, Store
from ray_distill.diffusion.samplers import halting, trajectory
from ray_distill.diffusion.timesteps import euler_timesteps
from ray_distill.models.conditions import collate, from_bytes, unconditional
from ray_distill.models.loading import load_transformer
from ray_distill.models.packed import tensor_shape
from ray_distill.models.spec import Row
from ray_distill.rng import StatelessRng

PURPOSE = "teacher_clips"


class MakeClips:
    """An actor with a teacher: rows with ``id`` and the places of their conditioning -> ``latents``, and the
    trajectory's ``states`` [K, C, T, H, W] at ``teacher.levels``.

    ``uncond`` is the place of the negative prompt. A row's noise depends only on its id, not on its batch.
    """

    def __init__(
        self, models: Encoders, teacher: Teacher, shape: Shape, text: Store, uncond: Place, images: Store | None = None
    ) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.teacher, self.shape, self.fields = teacher, shape, models.fields
        self.stores = {KINDS["caption"]: text} | ({KINDS["clip"]: images} if images else {})
        dtype = getattr(torch, teacher.dtype)
        family = models.pipeline.family
        network = load_transformer(family, models.folder(teacher), dtype, models.merged(teacher))
        network.to(self.device).eval().requires_grad_(False)
        self.denoise = models.pipeline.of.denoiser(network, dtype)
        scales = teacher.guidance, teacher.audio_guidance
        self.sampler = halting(euler_timesteps(teacher.steps, teacher.shift), teacher.levels, *scales)
        (self.uncond,) = self._rows({KINDS["caption"]: [uncond]})

    def __call__(self, rows: Batch) -> dict[str, Any]:
        places = {
            kind: [Place(*place) for place in zip(*(rows[f"{kind}_{part}"] for part in Place._fields), strict=True)]
            for kind in self.stores
        }
        rows_cond = collate(self._rows(places), self.fields, self.shape)
        cond = {name: value.to(self.device) for name, value in rows_cond.items()}
        # 15 of the id's hex digits: the whole id would not fit into the 64 bits of a sample id.
        ids = torch.tensor([int(id_[:15], 16) for id_ in rows["id"]], device=self.device)
        x_T = StatelessRng(self.teacher.seed).noise(PURPOSE, ids, tensor_shape(self.shape))
        uncond, levels = unconditional(self.uncond, cond, self.fields), self.teacher.levels
        *states, x_0 = trajectory(self.denoise, self.sampler, x_T, cond, uncond, levels)
        errors = ["" if torch.isfinite(x).all() else "the teacher's latents are not finite" for x in x_0]
        columns = {"id": list(rows["id"]), "error": errors, "latents": _bytes(x_0)}
        return columns | {"states": _bytes(torch.stack(states, dim=1))} if levels else columns

    def _rows(self, places: Mapping[str, Sequence[Place]]) -> list[Row]:
        """The conditioning rows at ``places``, which are given by kind of store."""
        fields = {name: field for name, field in self.fields.items() if KINDS[field.of] in places}
        values = [self.stores[KINDS[field.of]].read(places[KINDS[field.of]], name) for name, field in fields.items()]
        rows = [dict(zip(fields, row, strict=True)) for row in zip(*values, strict=True)]
        return [from_bytes(row, fields, self.shape) for row in rows]


def _bytes(batch: torch.Tensor) -> list[bytes]:
    return [np.ascontiguousarray(x).tobytes() for x in batch.float().cpu().numpy()]
