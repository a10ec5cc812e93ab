"""Check the evaluation's needs: a whole metric for the run's own clips, and its prompts."""

from __future__ import annotations

from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.measures import FIRST_FRAME, MEASURE_OF
from ray_distill.data.source import Source
from ray_distill.data.store.cache import Cache
from ray_distill.evaluate.captions import spread
from ray_distill.evaluate.metrics import Metric
from ray_distill.evaluate.metrics.consistency import CONSISTENCY
from ray_distill.evaluate.metrics.networks import check_network
from ray_distill.evaluate.metrics.raft import check_raft

VALIDATIONS = 100_000


def check_evaluation(config: RunConfig) -> None:
    """Check the metric and the numbers of an evaluation, which validations and later evaluations also use."""
    settings, data = config.evaluate, config.data
    if settings.every is not None and config.train.steps // settings.every > VALIDATIONS:
        raise ConfigError(
            f"evaluate.every = {settings.every}: {config.train.steps // settings.every:,} validations in train.steps "
            f"= {config.train.steps:,}; raise evaluate.every to {config.train.steps // VALIDATIONS + 1:,} or more"
        )
    check_networks(config)
    goals = [name for name in settings.goals.within if MEASURE_OF[name] == FIRST_FRAME]
    if goals and not config.begins_from_picture:
        raise ConfigError(f"evaluate.goals.within.{goals[0]}: this pipeline's videos begin from text; remove the goal")
    if settings.metric is None:
        return
    key = f"evaluate.metric = {settings.metric}"
    if not data.has_videos:
        raise ConfigError(
            f"{key}: the metric compares with real videos, and data has {_kinds(data)} alone; set "
            "evaluate.metric=null, or add a dataset with videos"
        )
    if not (settings.metric / "config.json").is_file():
        raise ConfigError(f"{key}: this folder has no config.json; give the folder of a metric, or remove the key")
    metric = Metric.checked(settings.metric, key)
    clips = [data.clips(part) for part in data.parts if part.kind not in ("prompts", "latents")]
    sizes = sorted({(each.frames, each.height, each.width) for each in clips} | {config.shown_size})
    if other := next((size for size in sizes if size != metric.size), None):
        raise ConfigError(
            f"{key}: the metric takes clips of frames, height, width = {_spelt(metric.size)}, and this run has "
            f"{_spelt(other)}; give a metric for this size, or set evaluate.metric=null"
        )
    if settings.prompts:
        check_prompts(metric, list(settings.prompts.values()), f"{key}: evaluate.prompts: ")


def _kinds(data: Source) -> str:
    return " and ".join(kind for kind in ("prompts", "latents") if data.numbers_of(kind))


def check_networks(config: RunConfig) -> None:
    """ConfigError for a folder of evaluate.networks that holds no network for its key."""
    for key, folder in config.evaluate.networks.folders.items():
        where = f"evaluate.networks.{key} = {folder}"
        if key == "flow":
            check_raft(folder, where)
            continue
        check_network(key, folder, where)
        if key in CONSISTENCY and config.shown_size[0] < 2:
            raise ConfigError(f"{where}: {CONSISTENCY[key]} compares frames, and this run's videos have one; remove it")


def check_cache(config: RunConfig, cache: Cache) -> None:
    """ConfigError before the training if the data has too few clips for the metric."""
    settings = config.evaluate
    if settings.metric is None or not (settings.enabled or settings.every or settings.baseline):
        return
    key = f"evaluate.metric = {settings.metric}"
    latents = set(config.data.numbers_of("latents"))
    pairs = zip(cache.index["video"].to_pylist(), cache.index["dataset"].to_pylist(), strict=True)
    videos = sum(1 for video, dataset in pairs if video and dataset not in latents)
    if videos < 2:
        raise ConfigError(
            f"{key}: the metric compares distributions, and data has {videos} clips; give 2 clips or more, or set "
            "evaluate.metric=null"
        )
    if not settings.prompts:
        chosen = spread(sorted(cache.by_caption()), settings.videos)
        check_prompts(Metric.checked(settings.metric, key), chosen, f"{key}: captions of the data: ")


def check_prompts(metric: Metric, prompts: list[str], where: str) -> None:
    """ConfigError for a prompt without an answer to the metric's questions."""
    for prompt in prompts:
        if head := metric.head_without_answer(prompt):
            words = ", ".join(metric.words[head][:12])
            raise ConfigError(f"{where}{prompt[:80]!r} names no {head} that the metric knows; use one of {words}")


def _spelt(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
