"""Memory of what comes beside and after the training: a task that samples, and an export."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ray_distill.config import RunConfig
from ray_distill.models.spec import Latent
from ray_distill.plan.estimate import Counted
from ray_distill.plan.forwards import Call
from ray_distill.plan.network import architecture, sampled_bytes, sizes
from ray_distill.types import STUDENT, TEACHER, Role, Sampler


@dataclass(frozen=True)
class Sampling:
    """Bytes of the largest task that samples: ``weights`` of its networks on each of its GPUs, and ``forward``, the
    largest passing tensors of a call of ``videos``. ``tensor`` is the largest tensor in fp32: CPU memory holds one at a
    time, on its way from the disk to the GPU, or to the files of an export."""

    weights: int
    forward: int
    tensor: int
    videos: int

    @property
    def total(self) -> int:
        return self.weights + self.forward

    def remedy(self, free: float, gpus: int) -> str | None:
        """The override with which a task on ``gpus`` GPUs fits into ``free`` bytes of each: fewer videos at a time, or
        twice to eight times the GPUs; None where neither is enough."""
        video = self.forward / self.videos
        alone = "" if self.videos == 1 else " evaluate.batch=1"
        if self.weights + video <= free:
            return f"evaluate.batch={int((free - self.weights) / video)}"
        counts = (gpus * times for times in (2, 4, 8))
        fits = (n for n in counts if self.weights * gpus / n + video <= free)
        return next((f"evaluate.gpus={n}{alone}" for n in fits), None)


def sampling(config: RunConfig, latent: Latent) -> Sampling:
    """Memory of sampling clips of ``latent`` (C, t, h, w) from the student, and from the teacher beside it; of a causal
    student as if it saw the whole clip at once, an upper bound."""
    counted, method = Counted(config, latent), config.method
    tasks = [_task(counted, STUDENT, method.sampler())]
    if TEACHER in method.roles:
        guided = Sampler((1000.0,), "ode", config.evaluate.teacher_guidance, experts=method.teachers)
        tasks.append(_task(counted, TEACHER, guided))
    return max(tasks, key=lambda task: task.total)


def _task(counted: Counted, role: Role, sampler: Sampler) -> Sampling:
    config, experts = counted.config, sampler.experts
    videos = min(config.evaluate.batch, config.evaluate.shown)
    rows = 1 + (sampler.guidance_scale != 1)
    weights, tensors, forwards = 0, [], []
    for each in (experts.high, experts.low) if experts else (role,):
        described = json.dumps(architecture(config, each))
        weights += sampled_bytes(config.model.family, described, config.role(each).dtype)
        tensors.append(4 * max(sizes(config.model.family, described)))
        forwards.append(counted.sampled(Call(each, rows, grad=False), videos).forward)
    return Sampling(weights // config.evaluate.gpus, max(forwards), max(tensors), videos)
