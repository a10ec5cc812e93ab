"""Generate one network's videos as a Ray task, and compute the metric's features of them.

Each Ray task ``generate`` samples one sampler with one seed, so that all CPUs or GPUs of the cluster take part.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from ray_distill import sealed
from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.measures import FIRST_FRAME, MeasureName
from ray_distill.data.read.track import Track
from ray_distill.data.store.cache import Cache
from ray_distill.evaluate.captions import spread
from ray_distill.evaluate.kept import LatentCache, latent_cache
from ray_distill.evaluate.latents import check_finite, frames_of, sample_batches
from ray_distill.evaluate.metrics import Metric, diversity, measures
from ray_distill.evaluate.metrics.consistency import network_measures
from ray_distill.evaluate.metrics.flow import farneback
from ray_distill.evaluate.metrics.picture import first_frame_error
from ray_distill.evaluate.metrics.raft import load_raft
from ray_distill.evaluate.pictures import Pictures, of_prompts, of_rows
from ray_distill.evaluate.processes import APART, set_up_sampling
from ray_distill.evaluate.prompts import encode_prompts
from ray_distill.evaluate.samples import Candidate, Samples, kept_name, latents_name
from ray_distill.models.conditions import from_bytes
from ray_distill.models.packed import picture, sound
from ray_distill.models.spec import Fields, Latent, Row, of_captions
from ray_distill.sealed import Damaged


def generate(
    config: RunConfig,
    candidate: Candidate,
    prompts: Sequence[str],
    rows: Sequence[Row],
    negative: Row,
    seed: int,
    keep: Path,
    names: Sequence[MeasureName] | None = None,
    latents: LatentCache | None = None,
    pictures: Pictures | None = None,
) -> Samples:
    """Sample one video for each prompt in batches, and measure them by ``names`` and evaluate.networks; with None by
    evaluate.metric alone. ``rows`` hold the conditioning of each, ``negative`` the negative prompt's captions. The
    folder ``keep`` stores results of networks that no training changes, and ``latents`` those of any network.
    Videos begin from ``pictures``, one for each prompt, where they do so."""
    name = kept_name(config, candidate, prompts, seed, names, pictured=pictures is not None)
    if name is not None:
        with suppress(FileNotFoundError, Damaged):  # not sampled yet, or to be sampled again
            return Samples.load(keep / name)
    samples = _generate(config, candidate, prompts, rows, negative, seed, names, latents, pictures)
    if name is not None:
        samples.save(keep / name)
    return samples


@torch.no_grad()
def _generate(
    config: RunConfig,
    candidate: Candidate,
    prompts: Sequence[str],
    rows: Sequence[Row],
    negative: Row,
    seed: int,
    names: Sequence[MeasureName] | None,
    cache: LatentCache | None = None,
    pictures: Pictures | None = None,
) -> Samples:
    set_up_sampling()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    codec = config.model.encoders.load_codec().to(device)
    shape = codec.latent_shape(*config.shown_size)
    name = None if cache is None else latents_name(config, candidate, prompts, seed)
    kept = None if cache is None or name is None else cache.load(name)
    if kept is None:
        began = time.perf_counter()
        batches = sample_batches(config, [candidate], rows, negative, seed, shape, device)
        latents = torch.cat([batch.cpu() for (batch,) in batches])
        sampling = (time.perf_counter() - began) / len(prompts)
        if cache is not None and name is not None:
            cache.save(name, latents, sampling)
    else:
        latents, sampling = kept
    pixels, began = [], time.perf_counter()
    for number, batch in enumerate(latents.split(config.evaluate.batch)):
        first = number * config.evaluate.batch
        pixels.append(frames_of(codec, picture(batch.to(device), shape), f"{candidate}, seed {seed}", first))
    tracks = _sound(config, latents[: config.evaluate.pictures], shape, device)
    seconds = sampling + (time.perf_counter() - began) / len(prompts)
    videos = np.concatenate(pixels)
    shown = videos[: config.evaluate.pictures]
    measured, whole = _measure(config, videos, prompts, names, device)
    if names is not None and pictures is not None:
        measured[FIRST_FRAME] = first_frame_error(videos, pictures)
    if config.evaluate.metric is None:
        return Samples(None, None, None, seconds, shown, measured, whole, tracks)
    metric = Metric.load(config.evaluate.metric)
    features = metric.features(videos)
    check_finite(features, f"features of {candidate} by evaluate.metric = {config.evaluate.metric}", 0)
    accuracy, varied = metric.accuracy(videos, prompts, features), diversity(features, prompts)
    return Samples(features, accuracy, varied, seconds, shown, measured, whole, tracks)


def _sound(config: RunConfig, latents: Tensor, shape: Latent, device: torch.device) -> tuple[Track, ...]:
    """The sound of ``latents``; empty where clips have none."""
    of = config.model.pipeline.of.sound
    if of is None:
        return ()
    decoder = of.decoder(config.model.path).to(device)
    samples = [decoder.decode(sound(part.to(device), shape)).cpu() for part in latents.split(config.evaluate.batch)]
    return tuple(Track(each, decoder.rate) for each in torch.cat(samples).numpy())


def generate_features(
    config: RunConfig,
    candidates: Sequence[Candidate],
    prompts: Sequence[str],
    rows: Sequence[Row],
    negative: Row,
    seed: int,
    keep: Path,
    videos: range,
) -> Tensor:
    """The metric's features [candidates, videos, D] of some ``videos`` of each of ``candidates``, by their numbers
    among ``prompts``. The candidates are samplers of the same networks."""
    part = slice(videos.start, videos.stop)
    names = [kept_name(config, candidate, prompts[part], seed) for candidate in candidates]
    digest = hashlib.sha256(json.dumps([names, videos.start]).encode()).hexdigest()
    path = None if None in names else keep / f"grid-{digest[:32]}.safetensors"
    if path is not None:
        with suppress(FileNotFoundError, Damaged):  # not sampled yet, or to be sampled again
            return torch.from_numpy(sealed.read_tensors(path)[0]["features"])
    features = _generate_features(config, candidates, rows[part], negative, seed, videos.start)
    if path is not None:
        sealed.write_tensors(path, {"features": features.numpy()})
    return features


@torch.no_grad()
def _generate_features(
    config: RunConfig, candidates: Sequence[Candidate], rows: Sequence[Row], negative: Row, seed: int, first: int
) -> Tensor:
    assert config.evaluate.metric is not None
    set_up_sampling()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    codec, metric = config.model.encoders.load_codec().to(device), Metric.load(config.evaluate.metric)
    shape = codec.latent_shape(*config.shown_size)
    features: list[list[Tensor]] = [[] for _ in candidates]
    for number, batch in enumerate(sample_batches(config, candidates, rows, negative, seed, shape, device, first)):
        for candidate, latents, own in zip(candidates, batch, features, strict=True):
            at = first + number * config.evaluate.batch
            own.append(metric.features(frames_of(codec, picture(latents, shape), f"{candidate}, seed {seed}", at)))
            check_finite(own[-1], f"features of {candidate} by evaluate.metric = {config.evaluate.metric}", at)
    return torch.stack([torch.cat(own) for own in features])


def _measure(
    config: RunConfig,
    videos: np.ndarray,
    prompts: Sequence[str],
    names: Sequence[MeasureName] | None,
    device: torch.device,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Measures of ``videos`` by name, and their features by the video network; nothing where ``names`` is None."""
    if names is None:
        return {}, None
    folders = config.evaluate.networks.folders
    flow = load_raft(folders["flow"], device) if "flow" in folders else farneback
    measured = measures(videos, config.data.fps, names, flow)
    judged, whole = network_measures(videos, prompts, folders, device)
    for name, values in {**judged, **({} if whole is None else {"video": whole})}.items():
        check_finite(values, f"{name} by evaluate.networks", 0)
    return measured | judged, whole


def _captions(cache: Cache, fields: Fields, count: int) -> tuple[list[str], list[Row], list[int]]:
    """``count`` captions of the data, each with the conditioning and the number of its first row."""
    rows = cache.by_caption()
    prompts = spread(sorted(rows), count)
    distinct = sorted(set(prompts))
    numbers = [rows[caption] for caption in distinct]
    stored = zip(cache.conditions(numbers, fields), cache.shapes(numbers), strict=True)
    rows_by_number = dict(zip(distinct, (from_bytes(row, fields, shape) for row, shape in stored), strict=True))
    return prompts, [rows_by_number[prompt] for prompt in prompts], [rows[prompt] for prompt in prompts]


def gpus_of(config: RunConfig) -> int:
    """GPUs of a task that samples: evaluate.gpus if the training uses GPUs, else none."""
    return config.evaluate.gpus if config.train.use_gpu else 0


def check_gpus(config: RunConfig) -> None:
    """ConfigError where nodes of the connected cluster have GPUs, and none has as many as one task takes."""
    most = max((int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    if 0 < most < gpus_of(config):
        raise ConfigError(
            f"evaluate.gpus = {config.evaluate.gpus}: the largest node has {most} GPUs, and a task that samples runs "
            f"on one node; set evaluate.gpus={most}, or start a larger node"
        )


class Generator:
    """The prompts of a run's evaluation, their conditioning, and the tasks that sample them."""

    def __init__(self, config: RunConfig, cache: Cache) -> None:
        check_gpus(config)
        settings, fields = config.evaluate, config.model.encoders.fields
        encoded = encode_prompts(config)
        if encoded is not None:
            prompts = list(settings.prompts.values())
            chosen = [i % len(prompts) for i in range(settings.shown)]
            self.prompts, rows = [prompts[i] for i in chosen], [encoded[i] for i in chosen]
            names = list(settings.prompts)
            pictures = of_prompts(config, [names[i] for i in chosen])
        else:
            self.prompts, rows, numbers = _captions(cache, fields, settings.shown)
            pictures = of_rows(config, cache, numbers)
        self._config, self._cache, self._keep, self.timeout_s = config, cache, cache.folder, config.train.timeout_s
        self._rows: Any = ray.put(rows)
        self._pictures: Any = ray.put(pictures)
        self._negative: Any = ray.put(
            from_bytes(cache.prompt("negative", fields), of_captions(fields), cache.latent_shape)
        )

    @cached_property
    def _task(self) -> Any:
        """``generate`` wrapped once: Ray starts the tasks of one wrapped function in order, longest samplers first."""
        return ray.remote(generate)

    @cached_property
    def real(self) -> Tensor | None:
        """The metric's features of the data set, measured at the first call; None without a metric."""
        if self._config.evaluate.metric is None:
            return None
        from ray_distill.evaluate.real import real_features  # imports decoders, which a sampling task does not need

        return real_features(self._config, self._cache)

    def start(
        self, candidate: Candidate, seed: int, num_cpus: float = 1, measured: bool = True, keep: bool = False
    ) -> ray.ObjectRef[Samples]:
        """Start a task that samples every prompt once, on GPUs of its own if the training uses GPUs. With ``measured``
        the task also measures the videos by ``evaluate.metrics`` and ``evaluate.networks``, with ``keep`` it takes
        latents that are kept, and keeps its own."""
        names = self._config.evaluate.metrics if measured else None
        latents = latent_cache(self._config, self._keep) if keep else None
        gpus = gpus_of(self._config)
        task = self._task.options(num_cpus=num_cpus, num_gpus=gpus, **APART)
        drawn = self._config, candidate, self.prompts, self._rows, self._negative, seed
        ref: ray.ObjectRef[Samples] = task.remote(*drawn, self._keep, names, latents, self._pictures)
        return ref

    def start_features(self, candidates: Sequence[Candidate], seed: int, videos: range) -> list[ray.ObjectRef[Tensor]]:
        """Start tasks that sample some ``videos`` of each of ``candidates``, samplers of the same networks. Results are
        the metric's features [candidates, some of the videos, D], in the order of the videos."""
        gpus, batch = gpus_of(self._config), self._config.evaluate.batch
        batches = -(-len(videos) // batch)
        # A task per CPU, or as many as have GPUs, since each loads the networks, and none twice as long as one of
        # `start`.
        slots = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)) // max(gpus, 1)
        tasks = min(batches, max(slots, len(videos) * len(candidates) // len(self.prompts)))
        each = batch * -(-batches // tasks)
        task: Any = ray.remote(num_cpus=1, num_gpus=gpus, **APART)(generate_features)
        fixed = self._config, candidates, self.prompts, self._rows, self._negative, seed, self._keep
        return [task.remote(*fixed, videos[at : at + each]) for at in range(0, len(videos), each)]
