"""Check a configuration for later failures before a cluster starts."""

from __future__ import annotations

from ray_distill import checkpoint
from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.sequence import check_heads
from ray_distill.data.clips import Clips
from ray_distill.data.read.remote import is_remote
from ray_distill.errors import mistakes
from ray_distill.export.checks import check_token
from ray_distill.models.hashing import ends_hash, weights_hash
from ray_distill.secrets import HIDDEN
from ray_distill.track.webhook import read_hook
from ray_distill.train import schedule
from ray_distill.train.driver.begin import check_init
from ray_distill.train.driver.checks.clips import check_data, check_size
from ray_distill.train.driver.checks.evaluation import check_evaluation
from ray_distill.train.driver.checks.experts import check_experts
from ray_distill.train.driver.checks.folders import check_folders
from ray_distill.train.driver.checks.latents import warnings_of_latents
from ray_distill.train.driver.checks.loras import check_loras
from ray_distill.train.driver.checks.networks import check_ends, check_networks, check_pulls, check_updates
from ray_distill.train.driver.checks.pipeline import check_export, check_parts
from ray_distill.train.driver.checks.store import check_store
from ray_distill.train.driver.resume import (
    check_same_data,
    check_teacher,
    different,
    kept_cache,
    new_run,
    not_measured,
    with_loras,
)
from ray_distill.train.wire.resume_point import resumed_from


def check(config: RunConfig) -> None:
    """Refuse, by ConfigError and before a cluster starts, a run that would fail in a later phase.

    It reads only the headers of files of weights."""
    with mistakes():
        _check(config)


def _check(config: RunConfig) -> None:
    check_updates(config)
    check_experts(config)
    check_loras(config)
    check_networks(config)
    check_heads(config)
    check_ends(config, check_parts(config))
    check_track(config)
    cache = kept_cache(config)
    if cache is None or not_measured(config, cache):
        check_data(config)
    check_size(config)
    check_evaluation(config)
    check_export(config)
    check_folders(config)
    if config.track.webhook is not None:
        read_hook(config.track.webhook)
    check_token(config)
    last = resumed_from(config.run_dir, str(config.train.resume_from))
    if last is not None and config.train.resume_from == "none":
        raise ConfigError(
            f"train.resume_from = none: this run already has {last.folder}. Choose another name, or go on from this "
            "checkpoint with train.resume_from=latest"
        )
    if last is not None and last.folder.parent != config.run_dir and last.step >= config.train.steps:
        raise ConfigError(
            f"train.resume_from = {last.folder}: it is at step {last.step:,}, and train.steps = {config.train.steps:,} "
            "leaves nothing to train; raise train.steps, or sample and export under the name of its run"
        )
    if last is not None:
        check_resumable(config, last)
        check_teacher(config, last)
        if cache is None and "data" in last.state:
            check_same_data(config, last)
    else:
        check_init(config)
    check_pulls(config)


def check_ahead(config: RunConfig) -> None:
    """Refuse, before another run makes the student from which this one starts, a run that would fail with any
    student."""
    with mistakes():
        check_updates(config)
        check_track(config)
        check_evaluation(config)
        check_export(config)
        check_folders(config)
        check_token(config)


def check_sampling(config: RunConfig) -> None:
    """ConfigError for a size of clips that the networks cannot sample."""
    with mistakes():
        check_size(config)


def check_measuring(config: RunConfig) -> None:
    """ConfigError for an evaluation that would fail with any student."""
    with mistakes():
        check_size(config)
        check_evaluation(config)


def check_exporting(config: RunConfig) -> None:
    """ConfigError for an export that would fail, or lack a file that was asked for, with any student."""
    with mistakes():
        check_size(config)
        check_export(config)


def check_preparation(config: RunConfig) -> None:
    """ConfigError for a part of the pipeline, a dataset or a folder with which the preparation would fail."""
    with mistakes():
        check_loras(config)
        check_parts(config)
        check_data(config)
        check_size(config)
        check_folders(config)


def check_track(config: RunConfig) -> None:
    """ConfigError unless ``track.uri`` names a store that MLflow knows, and every address has its secret, which written
    configurations hide."""
    if HIDDEN in config.track.uri:
        raise ConfigError(
            f"track.uri = {config.track.uri}: this file was written without its password; give the URI again: "
            "RAY_DISTILL_TRACK__URI=..., or for a server MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    check_store(config.track.uri)
    for number, part in enumerate(config.data.parts):
        if is_remote(part.place) and HIDDEN in str(part.place):
            key = f"data.datasets.{number}.{part.kind}" if config.data.datasets else f"data.{part.kind}"
            raise ConfigError(
                f"{key} = {part.place}: this file was written without its signature; give the whole address again"
            )


def warnings(config: RunConfig) -> list[str]:
    """Warnings of settings that the author of a run may not have meant."""
    texts = [*schedule.warnings(config), *config.method.warnings(config.computes_in_bf16)]
    if config.data.caption_dropout and not config.method.uses_latents:
        texts.append(
            f"data.caption_dropout = {config.data.caption_dropout:g}: method {config.method.name!r} learns from no "
            "data, so samples without a prompt only teach the student the empty prompt. Set it to 0"
        )
    for number, part in enumerate(config.data.datasets):
        if part.teacher is not None and part.teacher.path is not None and config.model.loras:
            texts.append(
                f"data.datasets.{number}.teacher.path: model.loras are merged into the weights of model.path, so this "
                "teacher makes its clips without them. Remove this path if the clips should have the LoRAs' style"
            )
    numbers = [str(number) for number, part in enumerate(config.data.datasets) if part.teacher is not None]
    if numbers and not config.method.uses_latents and config.evaluate.metric is None:
        texts.append(
            f"data.datasets.{numbers[0]}.teacher: method {config.method.name!r} reads prompts alone, so nothing reads "
            "the clips that the teacher makes. Remove this key, which saves their sampling"
        )
    return texts + warnings_of_latents(config)


def _rules_of_clips(config: RunConfig) -> list[str]:
    """Names of the keys of `data` with which any file gives other clips than with other values."""
    if not config.data.has_videos:
        return ["frames", "stride", "height", "width"]
    return [name for name in Clips.model_fields if name != "fps" or config.data.resample]


def check_resumable(config: RunConfig, last: checkpoint.Checkpoint) -> None:
    """ConfigError unless ``config`` is the run of ``last``: it names each relevant key that differs."""
    changed = different(
        config,
        last,
        (
            "seed",
            "method.",
            "model.family",
            "model.from_image",
            "data.caption_dropout",
            "data.keep_small_buckets",
            *(f"data.{name}" for name in _rules_of_clips(config)),
            "data.negative_prompt",
            "train.global_batch",
            *(f"roles.{role}.lora" for role in config.method.roles),
        ),
    )
    if changed:
        raise ConfigError(
            f"{last.folder} belongs to another run: {', '.join(changed)}. Choose {new_run(last)}, or set these keys "
            "back"
        )
    bases = last.state.get("bases", {})
    for role in (role for role, need in config.method.roles.items() if need == "trained"):
        adapts, loras, source = config.role(role).lora, config.loras(role), config.source(role)
        if role not in bases and not loras:
            continue
        same = {weights_hash(source, loras)} | (set() if loras else {ends_hash(source)})
        if bases.get(role) not in same and (adapts or not config.train.other_teacher):
            what = f"adapters of {role} that were trained on" if adapts else f"a {role} that began from"
            raise ConfigError(
                f"{last.folder} holds {what} other weights than those of {source}{with_loras(config, role)}; restore "
                "these weights, or choose another name"
            )
