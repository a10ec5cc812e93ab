"""The student against its teacher, by samples: every sampler makes the same prompts from the same noise.

Generation runs as Ray tasks, one sampler and one seed each, so that all CPUs or GPUs of the cluster take part.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ray_distill.checkpoint import Checkpoint
from ray_distill.config import RunConfig
from ray_distill.data.cache import Cache
from ray_distill.data.pipeline import clips
from ray_distill.data.transform import to_frames
from ray_distill.data.video import write_clip
from ray_distill.diffusion.samplers import sample
from ray_distill.diffusion.timesteps import euler_timesteps
from ray_distill.evaluate.metrics import Metric, frechet_distance
from ray_distill.evaluate.report import contact_sheet, missed
from ray_distill.models import family
from ray_distill.models.codec import load_codec
from ray_distill.models.loading import folder_hash, load_transformer, random_transformer
from ray_distill.models.lora import merge
from ray_distill.models.text import TextEncoder
from ray_distill.rng import StatelessRng
from ray_distill.types import STUDENT, TEACHER, Sampler

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """Weights and how to sample them: ``checkpoint`` is a student's, None the untrained source of ``role``."""

    role: str
    sampler: Sampler
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Made:
    """What one candidate made from one seed."""

    features: Tensor | None
    accuracy: float | None
    seconds_per_video: float
    videos: np.ndarray
    """uint8 [pictures, T, H, W, 3]: the first of the prompts."""


def load_network(config: RunConfig, role: str, checkpoint: Path | None) -> nn.Module:
    """A role's network, frozen, in fp32: out of a checkpoint (its average, where one is kept), or as it began.

    Adapters are merged into the weights that they adapt."""
    if config.role(role).init == "random":
        module = random_transformer(config.model.family, config.source(role), config.seed)
    else:
        module = load_transformer(config.model.family, config.source(role))
    if checkpoint is not None:
        tensors = Checkpoint(checkpoint).tensors(role, config.student_tensors)
        lora = config.role(role).lora
        if lora is None:
            module.load_state_dict(tensors)
        else:
            merge(module, lora, tensors)
    return module.eval().requires_grad_(False)


_network = lru_cache(maxsize=1)(
    lambda key, role, checkpoint: load_network(RunConfig.model_validate_json(key), role, checkpoint)
)


def make_latents(
    denoise: Any,
    sampler: Sampler,
    cond: dict[str, Tensor],
    uncond: dict[str, Tensor],
    first: int,
    seed: int,
    shape: Any,
) -> Tensor:
    """Latents [B, C, T, H, W] of the samples first, first + 1, ...: noise belongs to (seed, sample), not to a batch."""
    ids = torch.arange(first, first + len(cond["text"]), device=cond["text"].device)
    rng = StatelessRng(seed)
    x_T = rng.noise("sample/start", ids, shape)
    return sample(denoise, sampler, x_T, cond, uncond, noise=lambda i: rng.noise(f"sample/step{i}", ids, shape))


@torch.no_grad()
def generate(
    config: RunConfig, candidate: Candidate, prompts: Sequence[str], text: Tensor, uncond: Tensor, seed: int
) -> Made:
    """Sample one video a prompt (text [N, L, D], uncond [L, D]) in batches, and measure them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = _network(config.model_dump_json(), candidate.role, candidate.checkpoint).to(device)
    denoise = family(config.model.family).denoiser(network)
    codec = load_codec(config.model.path / "vae").to(device)
    shape = codec.latent_shape(config.data.frames, config.data.height, config.data.width)
    pixels, began = [], time.perf_counter()
    for first in range(0, len(prompts), config.evaluate.batch):
        cond = {"text": text[first : first + config.evaluate.batch].to(device)}
        null = {"text": uncond.to(device).expand_as(cond["text"])}
        latents = make_latents(denoise, candidate.sampler, cond, null, first, seed, shape)
        pixels.append(to_frames(codec.decode(latents)))
    seconds = (time.perf_counter() - began) / len(prompts)
    videos = np.concatenate(pixels)
    shown = videos[: config.evaluate.pictures]
    if config.evaluate.metric is None:
        return Made(None, None, seconds, shown)
    metric = Metric.load(config.evaluate.metric)
    return Made(metric.features(videos), metric.accuracy(videos, prompts), seconds, shown)


def encode_prompts(config: RunConfig, prompts: Sequence[str]) -> Tensor:
    """[N, L, D], each distinct prompt encoded once."""
    distinct = sorted(set(prompts))
    encoded = TextEncoder(config.model.path, config.model.max_sequence_length).encode(distinct).cpu()
    return encoded[[distinct.index(prompt) for prompt in prompts]]


def real_features(config: RunConfig, cache: Cache) -> Tensor:
    """The metric's features [N, 64] of the data set's own clips, kept beside the cache."""
    assert config.evaluate.metric is not None
    path = cache.folder / f"features-{folder_hash(config.evaluate.metric)[:16]}.safetensors"
    if not path.is_file():
        metric = Metric.load(config.evaluate.metric)

        def measure(rows: dict[str, Any]) -> dict[str, np.ndarray]:
            good = rows["error"] == ""
            return {"features": metric.features(rows["pixels"][good]).numpy()}

        rows = clips(config.data).map_batches(measure, batch_size=256).take_all()
        save_file({"features": torch.from_numpy(np.stack([row["features"] for row in rows]))}, path)
    return load_file(path)["features"]


def candidates(config: RunConfig, checkpoint: Path, guided: Sampler | None) -> dict[str, Candidate]:
    """What is compared, by the report's names. A method without a teacher is its own teacher_many."""
    student = config.method.sampler()
    if TEACHER not in config.method.roles:
        return {"student": Candidate(STUDENT, student, checkpoint)}
    settings = config.evaluate
    many = Sampler(euler_timesteps(settings.teacher_steps, settings.teacher_shift), "ode", settings.teacher_guidance)
    same_nfe = Sampler(euler_timesteps(student.nfe, settings.teacher_shift), "ode")
    rows = {
        "teacher_many": Candidate(TEACHER, many),
        "teacher_same_nfe": Candidate(TEACHER, same_nfe),
        "teacher_same_steps_guided": Candidate(TEACHER, guided) if guided else None,
        "student_before": Candidate(STUDENT, student),
        "student": Candidate(STUDENT, student, checkpoint),
    }
    return {name: row for name, row in rows.items() if row is not None}


def evaluate(
    config: RunConfig, cache: Cache, checkpoint: Path, out: Path, say: Callable[[str], None] = log.info
) -> dict[str, Any]:
    """Measure the student of ``checkpoint`` against its teacher; videos and the contact sheet go to ``out``.

    Returns the report: per sampler frechet, frechet_spread (standard deviation over sampling seeds), accuracy, nfe,
    seconds_per_video. Without a metric only the pictures and the seconds are there.
    """
    settings = config.evaluate
    captions = cache.captions()
    count = settings.videos if settings.metric else settings.pictures
    # A stride that shares no factor with their number shows different captions first than their alphabet does.
    prompts = [captions[(7 * i + i // len(captions)) % len(captions)] for i in range(count)]
    remote = ray.remote(num_cpus=1, num_gpus=1 if config.train.use_gpu else 0)
    task, uncond = remote(generate), ray.put(torch.from_numpy(cache.uncond))
    text = remote(encode_prompts).remote(config, prompts)

    def start(candidate: Candidate, seed: int) -> Any:
        return task.remote(config, candidate, prompts, text, uncond, seed)

    real = real_features(config, cache) if settings.metric else None
    guided = _tune(config, start, real, say) if real is not None and TEACHER in config.method.roles else None
    compared = candidates(config, checkpoint, guided)
    pending = {(name, seed): start(c, seed) for name, c in compared.items() for seed in settings.seeds}
    report: dict[str, Any] = {}
    columns: dict[str, np.ndarray] = {}
    for name, candidate in compared.items():
        made: list[Made] = [
            ray.get(pending.pop((name, seed)), timeout=config.train.timeout_s) for seed in settings.seeds
        ]
        report[name] = _summary(made, real, candidate.sampler)
        columns[f"{name.replace('_', ' ')} ({candidate.sampler.nfe} nfe)"] = made[0].videos
        say(f"{name}: {report[name]}")
    contact_sheet(out / "contact_sheet.png", columns, prompts[: settings.pictures])
    _write_videos(out / "videos", columns, prompts, config.data.fps)
    if guided is not None:
        report["teacher_same_steps_guided"] |= {"guidance_scale": guided.guidance_scale, "timesteps": guided.timesteps}
    report |= {"seeds": len(settings.seeds), "videos_per_seed": count}
    return report | {"missed": missed(report, settings.goals)}


def _write_videos(folder: Path, columns: dict[str, np.ndarray], prompts: Sequence[str], fps: float) -> None:
    for heading, videos in columns.items():
        own = folder / heading.partition(" (")[0].replace(" ", "_")
        own.mkdir(parents=True, exist_ok=True)
        for number, (prompt, video) in enumerate(zip(prompts, videos, strict=False)):
            name = re.sub(r"[^\w-]+", "_", prompt)[:60]  # a caption may hold anything
            write_clip(own / f"{number:02d}_{name}.mp4", enlarge(video), fps)


def _tune(
    config: RunConfig, start: Callable[[Candidate, int], Any], real: Tensor, say: Callable[[str], None]
) -> Sampler:
    """The teacher at the student's steps, at the guidance and shift that are best on another seed than is reported."""
    steps = len(config.method.sampler().timesteps)
    grid = [
        Sampler(euler_timesteps(steps, shift), "ode", scale)
        for scale in config.evaluate.guidance_grid
        for shift in config.evaluate.shift_grid
    ]
    refs = [start(Candidate(TEACHER, sampler), config.evaluate.tune_seed) for sampler in grid]
    made = ray.get(refs, timeout=config.train.timeout_s)
    scores = [frechet_distance(m.features, real) for m in made]
    best = int(np.argmin(scores))
    say(f"few-step teacher: guidance {grid[best].guidance_scale} and timesteps {grid[best].timesteps} are best")
    return grid[best]


def _summary(made: Sequence[Made], real: Tensor | None, sampler: Sampler) -> dict[str, Any]:
    distances = [frechet_distance(m.features, real) for m in made if m.features is not None and real is not None]
    right = [m.accuracy for m in made if m.accuracy is not None]
    return {
        "frechet": float(np.mean(distances)) if distances else None,
        "frechet_spread": float(np.std(distances, ddof=1)) if len(distances) > 1 else None,
        "accuracy": float(np.mean(right)) if right else None,
        "nfe": sampler.nfe,
        "seconds_per_video": float(np.median([m.seconds_per_video for m in made])),
    }


def enlarge(video: np.ndarray, least: int = 192) -> np.ndarray:
    """[T, H, W, 3] magnified by a whole factor to at least ``least`` rows: players blur tiny videos."""
    factor = max(1, -(-least // video.shape[1]))
    return video.repeat(factor, axis=1).repeat(factor, axis=2)
