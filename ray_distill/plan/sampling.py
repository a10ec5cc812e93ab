"""Memory of what comes beside and after the training: a task that samples, and an export."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from ray_distill.config import RunConfig
from ray_distill.models.spec import Latent
from ray_distill.plan.encoding import coding
from ray_distill.plan.estimate import Counted
from ray_distill.plan.forwards import Call
from ray_distill.plan.network import architecture, sampled_bytes, sizes
from ray_distill.types import STUDENT, TEACHER, Experts, Role


@dataclass(frozen=True)
class Sampling:
    """Bytes of the largest task that samples: ``weights`` of its networks on each of its GPUs, and ``forward``, the
    largest passing tensors of a call of ``videos``. Beside the networks is the ``codec``, whose weights are on one GPU;
    ``decode`` is what it takes for the videos, and ``tiled`` for one by tiles. ``tensor`` is the largest tensor in
    fp32: CPU memory holds one at a time, on its way from the disk to the GPU, or to the files of an export."""

    weights: int
    forward: int
    tensor: int
    videos: int
    codec: int = 0
    decode: int = 0
    tiled: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.codec + max(self.forward, self.decode)

    def remedy(self, free: float, gpus: int, most: int) -> str | None:
        """The overrides with which a task on ``gpus`` GPUs fits into ``free`` bytes of each: fewer videos at a time,
        else decoding by tiles, else twice to eight times the GPUs, of the ``most`` of a node; None where all is not
        enough."""
        call, whole = self.forward / self.videos, self.decode / self.videos
        for n in (gpus * times for times in (1, 2, 4, 8) if times == 1 or gpus * times <= most):
            for decode in dict.fromkeys((whole, self.tiled)):
                room, video = free - self.weights * gpus / n - self.codec, max(call, decode)
                if video <= room:
                    tiles = ["model.vae_tiling=true"] * (decode != whole)
                    batch = [f"evaluate.batch={int(room / video)}"] * (int(room / video) < self.videos)
                    return " ".join([*[f"evaluate.gpus={n}"] * (n > gpus), *batch, *tiles])
        return None


def sampling(config: RunConfig, latent: Latent) -> Sampling:
    """Memory of sampling clips of ``latent`` (C, t, h, w) from the student, and from the teacher beside it; of a causal
    student as if it saw the whole clip at once, an upper bound. The codec decodes clips of the evaluation's size."""
    counted, method = Counted(config, latent), config.method
    student, settings = method.sampler(), config.evaluate
    of_student = {student.scale(timestep) for timestep in student.timesteps} | {student.audio_guidance_scale}
    tasks = [_task(counted, STUDENT, student.experts, of_student)]
    if TEACHER in method.roles:
        of_teacher = {settings.teacher_guidance, settings.teacher_guidance_low, settings.teacher_audio_guidance}
        tasks.append(_task(counted, TEACHER, method.teachers, of_teacher))
    largest = max(tasks, key=lambda task: task.total)
    tiled, planned = (coding(config.model.pipeline, config.shown_size, how) for how in (True, config.model.vae_tiling))
    decode = largest.videos * planned.decode
    return replace(largest, codec=planned.weights, decode=decode, tiled=min(tiled.decode, planned.decode))


def _task(counted: Counted, role: Role, experts: Experts | None, scales: set[float | None]) -> Sampling:
    """Memory of sampling ``role``, or its ``experts``; any of the guidance ``scales`` but 1 doubles the videos of a
    call."""
    config = counted.config
    videos = min(config.evaluate.batch, config.evaluate.shown)
    rows = 1 + bool(scales - {None, 1.0})
    weights, tensors, forwards = 0, [], []
    for each in (experts.high, experts.low) if experts else (role,):
        described = json.dumps(architecture(config, each))
        weights += sampled_bytes(config.model.family, described, config.role(each).dtype)
        tensors.append(4 * max(sizes(config.model.family, described)))
        forwards.append(counted.sampled(Call(each, rows, grad=False), videos).forward)
    return Sampling(weights // config.evaluate.gpus, max(forwards), max(tensors), videos)
