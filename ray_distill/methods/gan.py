"""DMD2's GAN term (arXiv 2405.14867, section 4.3), added to distribution matching.

1. noise x and the batch's x_0 to one level s ~ U(0, gan_max_timestep / 1000), with the same eps
2. pass both through the teacher or the fake score; heads on its hidden features give logits D, one per token
3. discriminator, in each step of ``discriminator_turn``: descend cost(D(x_s), fake) + cost(D(x_0_s), real)
   + gan_r1_weight mean (D(x_0_s) - D((x_0 + gan_r1_noise n)_s))^2     (approximate R1, arXiv 2501.08316)
4. student: descend DMD2's loss + gan_weight cost(D(x_s), real); its gradient passes heads and features
5. student, unless ``divergence`` is rkl: multiply each sample's DMD gradient by h(r) / h(1), r = exp D(x_s) at the
   score's own x_s (f-distill, arXiv 2502.15681)
6. fake score, if the heads read its features: descend DMD2's loss + gan_trunk_weight times the discriminator's
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from ray_distill.diffusion.flow import add_noise
from ray_distill.diffusion.losses import adversarial_loss, divergence_weight, mse
from ray_distill.diffusion.prefix import generated_features, generated_places
from ray_distill.methods.dmd import DMD
from ray_distill.methods.modalities import modality_logs, total
from ray_distill.types import (
    DISCRIMINATOR,
    FAKE_SCORE,
    STUDENT,
    TEACHER,
    Batch,
    Discriminator,
    Heads,
    LossTerms,
    Need,
    Networks,
    Rng,
    Role,
    Shared,
    Update,
)


@dataclass(frozen=True)
class GAN(DMD):
    gan_weight: float = 0.03
    """Weight of the GAN term in the student's loss; 0 is off."""
    gan_loss: Literal["softplus", "hinge"] = "softplus"
    """softplus, or hinge."""
    gan_features: Literal["teacher", "fake_score"] = "teacher"
    """The role whose hidden features the discriminator's heads read."""
    gan_depths: tuple[float, ...] = (0.53, 0.76, 1.0)
    """Blocks under the heads, as fractions of the depth: of 30 blocks 15, 22 and 29, counted from 0."""
    gan_max_timestep: float = 1000.0
    """Highest noise level at which real and fake are compared."""
    gan_trunk_weight: float = 0.0
    """Weight of the discriminator's loss in the fake score's, for gan_features fake_score; 0: heads alone learn."""
    discriminator_turn: Literal["fake_score", "student"] = "fake_score"
    """Whose steps also update the discriminator: fake_score, as in DMD2, or student, whose features it then reuses."""
    gan_r1_weight: float = 0.0
    """Weight of the approximate R1 penalty; 0 is off."""
    gan_r1_noise: float = 0.1
    """Spread of the noise in the R1 penalty."""
    divergence: Literal["rkl", "kl", "js", "sf", "neyman", "sh", "jf"] = "rkl"
    """Weight of each sample's DMD gradient by the discriminator's ratio (f-distill); rkl is 1."""

    name: ClassVar[str] = "dmd_gan"
    roles: ClassVar[Mapping[Role, Need]] = {**DMD.roles, DISCRIMINATOR: "trained"}

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = self.gan_weight, self.gan_trunk_weight, self.gan_r1_weight
        if min(weights) < 0 or self.gan_r1_noise <= 0:
            raise ValueError(
                f"gan_weight, gan_trunk_weight, gan_r1_weight, gan_r1_noise = {weights}, {self.gan_r1_noise}: need "
                "weights of 0 (off) or more and noise above 0"
            )
        if self.gan_trunk_weight and self.gan_features != FAKE_SCORE:
            raise ValueError(
                f"gan_trunk_weight = {self.gan_trunk_weight}: features of the {self.gan_features} stay frozen; use "
                f"gan_features = {FAKE_SCORE}, or remove gan_trunk_weight"
            )
        if not 0 < self.gan_max_timestep <= 1000:
            raise ValueError(f"gan_max_timestep = {self.gan_max_timestep}: give a timestep in (0, 1000]")
        if not self.gan_depths or not all(0 < depth <= 1 for depth in self.gan_depths):
            raise ValueError(
                f"gan_depths = {list(self.gan_depths)}: give one or more parts of the depth, each in (0, 1]"
            )

    @property
    def uses_latents(self) -> bool:
        return True

    @property
    def heads(self) -> Mapping[Role, Heads]:
        return {DISCRIMINATOR: Heads(self.gan_features, self.blocks)}

    def blocks(self, count: int) -> tuple[int, ...]:
        return tuple(sorted({ceil(depth * count) - 1 for depth in self.gan_depths}))

    def describe(self) -> str:
        return (
            f"{super().describe()}; GAN ({self.gan_loss}, {self.gan_weight:g}) on features of the {self.gan_features}"
        )

    def updates(self, step: int) -> tuple[Update, ...]:
        updates = super().updates(step)
        follows = any(update.role == self.discriminator_turn for update in updates)
        return (*updates, Update(DISCRIMINATOR, self.discriminator_loss)) if follows else updates

    def match(self, x: Tensor, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        terms = super().match(x, networks, batch, rng, shared)
        if not self.gan_weight:
            return terms
        features = self.features(x, networks, batch, rng, STUDENT)
        if self.discriminator_turn == STUDENT and self.gan_features == TEACHER:  # whose features stay the same
            shared["judged"] = x.detach()
            shared.update({f"features/{at}": each.detach() for at, each in enumerate(features)})
        logits = judge_of(networks)(features)
        losses = self.by_modality(lambda fake: adversarial_loss(fake, True, self.gan_loss), batch, logits)
        loss = total(losses)
        logs = {**terms.logs, "gan_loss": loss.detach(), **modality_logs("gan", losses)}
        return LossTerms(terms.loss + self.gan_weight * loss, logs)

    def weight(self, x_s: Tensor, sigma: Tensor, networks: Networks, batch: Batch) -> Tensor | None:
        """f-distill's weight from logits at the score's own level; None for reverse KL, DMD's divergence. A clip has
        one weight: with sound, from the mean of its modalities' mean logits."""
        if self.divergence == "rkl":
            return None
        logits = judge_of(networks)(self.features_at(x_s, sigma, networks, batch))
        if batch.modalities:
            places = generated_places(batch.modalities, batch.prefix).values()
            logits = torch.stack([logits[:, :, where].flatten(1).mean(1) for where in places], dim=1)
        return divergence_weight(logits, self.divergence)

    def fake_samples(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> tuple[Tensor, str]:
        """DMD2's samples, made once per step, so that discriminator and fake score learn from the same samples."""
        if "x" not in shared and "fake_x" not in shared:
            shared["fake_x"], _ = super().fake_samples(networks, batch, rng, shared)
        return (shared["x"], "student") if "x" in shared else (shared["fake_x"], FAKE_SCORE)

    def fake_score_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        terms = super().fake_score_loss(networks, batch, rng, shared)
        if not self.gan_trunk_weight:
            return terms
        x, _ = self.fake_samples(networks, batch, rng, shared)
        return LossTerms(terms.loss + self.gan_trunk_weight * self.separate(x, networks, batch, rng).loss, terms.logs)

    def discriminator_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        if "judged" not in shared:
            x, _ = self.fake_samples(networks, batch, rng, shared)
            return self.separate(x, networks, batch, rng, trunk=False)
        fake = judge_of(networks)([value for key, value in shared.items() if key.startswith("features/")])
        return self.separate(shared["judged"], networks, batch, rng, trunk=False, fake=fake)

    def separate(
        self, x: Tensor, networks: Networks, batch: Batch, rng: Rng, trunk: bool = True, fake: Tensor | None = None
    ) -> LossTerms:
        """The discriminator's loss between ``x``, whose logits after a student update are ``fake``, and the batch's
        x_0; with ``trunk`` gradient also enters the features."""
        assert batch.x_0 is not None
        x_0 = batch.x_0[:, :, : x.shape[2]]  # a rollout can be shorter than its clip
        purpose = DISCRIMINATOR if fake is None else STUDENT
        if fake is None:
            fake = self.logits(x, networks, batch, rng, purpose, trunk)
        real = self.logits(x_0, networks, batch, rng, purpose, trunk)

        def cost(fake: Tensor, real: Tensor) -> Tensor:
            return adversarial_loss(fake, False, self.gan_loss) + adversarial_loss(real, True, self.gan_loss)

        losses = self.by_modality(cost, batch, fake, real)
        loss = total(losses)
        logs = {"discriminator_fake": fake.flatten(1).mean(1), "discriminator_real": real.flatten(1).mean(1)}
        logs |= modality_logs("discriminator", losses)
        if self.gan_r1_weight:
            near = x_0 + self.gan_r1_noise * rng.noise("discriminator/r1", batch.sample_ids, x_0.shape[1:])
            beside = self.logits(near, networks, batch, rng, purpose, trunk)
            logs["discriminator_r1"] = self.weighed(mse, batch, beside, real)
            loss = loss + self.gan_r1_weight * logs["discriminator_r1"]
        logs["discriminator_loss"] = loss
        return LossTerms(loss, {name: value.detach() for name, value in logs.items()})

    def logits(self, x: Tensor, networks: Networks, batch: Batch, rng: Rng, purpose: str, trunk: bool = True) -> Tensor:
        """Logits [B, blocks, tokens]: the discriminator on noised ``x``. Calls with one ``purpose`` share level and
        noise."""
        with torch.set_grad_enabled(trunk and torch.is_grad_enabled()):
            features = self.features(x, networks, batch, rng, purpose)
        return judge_of(networks)(features)

    def features(self, x: Tensor, networks: Networks, batch: Batch, rng: Rng, purpose: str) -> tuple[Tensor, ...]:
        """Features [B, tokens, D] under each head, of noised ``x``."""
        sigma = rng.uniform(f"{purpose}/gan_sigma", batch.sample_ids) * (self.gan_max_timestep / 1000)
        x_s = add_noise(x, rng.noise(f"{purpose}/gan_eps", batch.sample_ids, x.shape[1:]), sigma)
        return self.features_at(x_s, sigma, networks, batch)

    def features_at(self, x_s: Tensor, sigma: Tensor, networks: Networks, batch: Batch) -> tuple[Tensor, ...]:
        features = networks[self.gan_features](x_s, sigma, batch.cond, features=judge_of(networks).blocks).features
        return generated_features(features, x_s.shape[2], batch.modalities, batch.prefix)


def judge_of(networks: Networks) -> Discriminator:
    return cast(Discriminator, networks[DISCRIMINATOR])
