"""DCM's detail expert (arXiv 2506.03123): consistency below the boundary, judged by heads on the teacher's features.

1. as for the semantic expert, on the levels below:  pred = f_student(x_k), aim = sg f_target(x_prev), both at level e
2. a ~ U{e .. the phase's last}: noise both with the same eps to sigma_a, and show them to the teacher
3. student: descend the consistency loss + adversarial_weight mean relu(1 - D(h(pred_a)))
   + feature_weight mean (h'(pred_a) - h'(aim_a))^2; h: hidden features, h': outputs of the last layers on them
4. discriminator, each step: descend mean relu(1 + D(h(pred_a))) + mean relu(1 - D(h(aim_a)))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from ray_distill.diffusion.consistency import Phases, solver_phases
from ray_distill.diffusion.flow import renoise
from ray_distill.diffusion.losses import adversarial_loss, mse
from ray_distill.diffusion.prefix import generated_tokens
from ray_distill.methods.dcm import DCM, END
from ray_distill.types import (
    DISCRIMINATOR,
    STUDENT,
    TEACHER,
    Batch,
    Discriminator,
    Heads,
    LossTerms,
    Need,
    Networks,
    Prediction,
    Rng,
    Role,
    Sampler,
    Shared,
    Start,
    Update,
)

SEMANTIC: Role = "semantic"


@dataclass(frozen=True)
class DCMFine(DCM):
    temporal_lag: int = 0
    adversarial_weight: float = 0.5
    """Weight of the discriminator's term in the student's loss; 0 is off."""
    feature_weight: float = 1.0
    """Weight of the feature match in the student's loss."""
    discriminator_stride: int = 2
    """Distance between the teacher's blocks that the discriminator reads; the last block is one of them."""

    name: ClassVar[str] = "dcm_fine"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.split:
            raise ValueError("boundary = 0: the detail expert has no levels left; give the semantic expert's boundary")
        if self.discriminator_stride < 1 or min(self.adversarial_weight, self.feature_weight) < 0:
            raise ValueError(
                f"adversarial_weight, feature_weight, discriminator_stride = {self.adversarial_weight}, "
                f"{self.feature_weight}, {self.discriminator_stride}: need weights of 0 (off) or more and a stride of "
                "1 or more"
            )

    @property
    def roles(self) -> Mapping[Role, Need]:
        return {**super().roles, DISCRIMINATOR: "trained", SEMANTIC: Start(STUDENT)}

    @property
    def heads(self) -> Mapping[Role, Heads]:
        return {DISCRIMINATOR: Heads(TEACHER, self.blocks)}

    def blocks(self, count: int) -> tuple[int, ...]:
        return tuple(range((count - 1) % self.discriminator_stride, count, self.discriminator_stride))

    @property
    def phases(self) -> Phases:
        return solver_phases(self.euler_steps, self.shift, END, self.split, self.multiphase)

    def updates(self, step: int) -> tuple[Update, ...]:
        return (*super().updates(step), Update(DISCRIMINATOR, self.discriminator_loss))

    def sampler(self) -> Sampler:
        """Recipe of both experts; from the boundary up the semantic expert predicts, whose weights the student began
        with."""
        return self.recipe(SEMANTIC, STUDENT)

    def student_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        pred, aim, terms = self.consistency(networks, batch, rng)
        shared["pred"], shared["aim"] = pred.detach(), aim
        judge = cast(Discriminator, networks[DISCRIMINATOR])
        fake = self.show(pred, judge.blocks, networks, batch, rng)
        with torch.no_grad():
            real = self.show(aim, judge.blocks, networks, batch, rng)
        adversarial = adversarial_loss(judge(fake.features), True, "hinge")
        matching = mse(torch.stack(fake.readings), torch.stack(real.readings))
        loss = terms.loss + self.adversarial_weight * adversarial + self.feature_weight * matching
        more = {"adversarial_loss": adversarial.detach(), "feature_loss": matching.detach()}
        return LossTerms(loss, {**terms.logs, **more})

    def discriminator_loss(self, networks: Networks, batch: Batch, rng: Rng, shared: Shared) -> LossTerms:
        judge = cast(Discriminator, networks[DISCRIMINATOR])
        with torch.no_grad():
            if "pred" not in shared:
                shared["pred"], shared["aim"], _ = self.consistency(networks, batch, rng)
            predictions = [self.show(shared[name], judge.blocks, networks, batch, rng) for name in ("pred", "aim")]
        fake, real = (judge(prediction.features) for prediction in predictions)
        loss = adversarial_loss(fake, False, "hinge") + adversarial_loss(real, True, "hinge")
        logs = {"discriminator_fake": fake.flatten(1).mean(1), "discriminator_real": real.flatten(1).mean(1)}
        return LossTerms(loss, {name: value.detach() for name, value in (logs | {"discriminator_loss": loss}).items()})

    def show(self, x: Tensor, blocks: tuple[int, ...], networks: Networks, batch: Batch, rng: Rng) -> Prediction:
        """The teacher's outputs on ``x``, noised from the end of its phase to a level inside it, the same for pred and
        aim."""
        u, phases = rng.uniform("step", batch.sample_ids), self.phases
        sigma_a = phases.within(phases.index(u), rng.uniform("level", batch.sample_ids))
        eps = rng.noise("bridge", batch.sample_ids, batch.latent_shape)
        x_a = renoise(x, eps, phases.draw(u).sigma_end, sigma_a)
        prediction = networks[TEACHER](x_a, sigma_a, batch.cond, features=blocks, read=True)
        features, readings = (
            tuple(generated_tokens(hidden, x.shape[2], batch.prefix) for hidden in all_tokens)
            for all_tokens in (prediction.features, prediction.readings)
        )
        return replace(prediction, features=features, readings=readings)
