"""Self-Forcing after CausVid's regression on the teacher's trajectories (arXiv 2412.07772, section 4.2).

1. the teacher's Euler solver takes noise through x_k at each of the student's levels to x_clean, without gradient
2. each chunk of a sample has its own level k; all chunks pass one forward under the block-causal mask
3. for ``warm_start_steps`` steps descend mean (G(x_k) - x_clean)^2; then distil
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ray_distill.diffusion.causal import chunk_lengths
from ray_distill.diffusion.flow import x_0_from_velocity
from ray_distill.diffusion.losses import mse
from ray_distill.diffusion.prefix import generated
from ray_distill.methods.self_forcing import SelfForcing
from ray_distill.methods.warm_start import WarmStart
from ray_distill.types import STUDENT, Batch, LossTerms, Networks, Rng, Shared


@dataclass(frozen=True)
class CausalWarmStart(WarmStart, SelfForcing):
    name: ClassVar[str] = "self_forcing_warm_start"

    def made_shape(self, batch: Batch) -> tuple[int, int, int, int]:
        channels, clip, height, width = batch.latent_shape
        return channels, self.frames(clip), height, width

    def warm_start_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        *states, x_clean = self.trajectory(networks, batch, rng)
        lengths = chunk_lengths(x_clean.shape[2], self.chunks)
        uniforms = [rng.uniform(f"warm_start/level{chunk}", batch.sample_ids) for chunk in range(len(lengths))]
        by_chunk = (torch.stack(uniforms, dim=1) * len(states)).long()
        k = by_chunk.repeat_interleave(torch.tensor(lengths, device=by_chunk.device), dim=1)  # [B, T]
        picked = k[:, None, None, :, None, None].expand(-1, 1, *x_clean.shape[1:])
        x_k = torch.stack(states, dim=1).gather(1, picked).squeeze(1)
        sigma = torch.tensor(self.sampler().timesteps, device=k.device)[k] / 1000
        v = networks[STUDENT](x_k, sigma, batch.cond, chunks=lengths, window=self.chunks.window).velocity
        loss = mse(generated(x_0_from_velocity(x_k, v, sigma), batch.prefix), generated(x_clean, batch.prefix))
        return LossTerms(loss, {"warm_start_loss": loss.detach()})
