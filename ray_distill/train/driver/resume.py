"""Keep data, teacher and averages of a resumed run as its checkpoint has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ray_distill.checkpoint import Checkpoint
from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.keys import flatten
from ray_distill.data.prepare.known_caches import recall
from ray_distill.data.prepare.listing import entries, listing
from ray_distill.data.store.cache import CARD, Cache
from ray_distill.data.store.tables import rows_of, unequal
from ray_distill.models.hashing import weights_hash
from ray_distill.sealed import Damaged
from ray_distill.train.wire.resume_point import SOURCES, resumed_from
from ray_distill.types import Role

HOW = ("cache_dir", "encode_batch", "encoders", "encoder_gpus")
"""Keys that determine how data is made, not its content."""
SHOWN = 3


def kept_cache(config: RunConfig) -> Cache | None:
    """The cache of the checkpoint that a run goes on from, whatever became of its sources since.

    None if there is no checkpoint, if the configuration asks for other data, or if the cache is gone or damaged: the
    run then prepares it like a new run, which repairs it.
    """
    last = resumed_from(config.run_dir, str(config.train.resume_from))
    if last is None or "data" not in last.state:
        return None
    then, now = with_defaults(last.state["config"]).get("data"), config.dump()["data"]
    cache = Cache(config.data.cache_dir / str(last.state["data"]))
    if not (cache.folder / CARD).is_file() or then is None or _asked(then) != _asked(now):
        return None
    try:
        cache.check()
    except Damaged:
        return None
    models = config.model.encoders
    same_sound = cache.card.get("sound", models.sound) == models.sound
    return cache if same_sound and cache.addresses == (models.codec, models.encoder, models.images) else None


def _asked(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in HOW}


def check_same_data(config: RunConfig, last: Checkpoint) -> None:
    """ConfigError if the configuration's data has a cache already, and the run was trained on another. Data that nobody
    has prepared yet is compared once it is, by its content."""
    cache = recall(config.data, config.model.encoders, listing(config.data))
    if cache is not None:
        check_cache_of(config, last, cache)


def check_cache_of(config: RunConfig, last: Checkpoint, cache: Cache) -> None:
    """ConfigError if the run of a checkpoint was trained on another cache."""
    if last.state["data"] != cache.folder.name:
        how = tuple(f"data.{name} " for name in HOW)
        changed = [text for text in different(config, last, ("data.",)) if not text.startswith(how)]
        what = f"; {', '.join(changed)}" if changed else ""
        raise ConfigError(
            f"{last.folder} was trained on other data (cache {last.state['data']}, now {cache.folder.name}{what}): "
            f"choose {new_run(last)}, or restore the old data"
        )


def changes(config: RunConfig, cache: Cache) -> list[str]:
    """Lines on changes of a cache's sources: missing clips, and new ones, which a resumed run does not see."""
    try:
        listed = {(entry.dataset, entry.video) for entry in entries(config.data) if entry.video}
    except (ValueError, OSError) as error:
        return [f"the data's sources cannot be listed ({error}); the run goes on with its cache"]
    clips = rows_of(unequal(cache.index, video="").select(["dataset", "video"]))
    kept = {(row["dataset"], row["video"]) for row in clips}
    gone, new = sorted(kept - listed), sorted(listed - kept)
    lines = [f"{_count(gone)} gone from the data's sources; the run goes on with its cache"] if gone else []
    absent = cache.card.get("skipped", 0) + cache.card.get("repeated", 0)
    if len(new) > absent:
        lines.append(f"{len(new) - absent} new clips in the data's sources are not part of this run")
    return lines


def not_measured(config: RunConfig, cache: Cache) -> bool:
    """True if the metric has yet to read the clips from their sources."""
    return config.evaluate.metric is not None and not any(cache.folder.glob("features-*"))


def _count(clips: list[tuple[int, str]]) -> str:
    names = ", ".join(name for _, name in clips[:SHOWN]) + (", ..." if len(clips) > SHOWN else "")
    return f"{len(clips)} clip ({names}) is" if len(clips) == 1 else f"{len(clips)} clips ({names}) are"


def check_teacher(config: RunConfig, last: Checkpoint) -> None:
    """ConfigError if the weights of a frozen role have changed since the run began, unless the configuration allows
    it."""
    for role, then in last.state.get(SOURCES, {}).items():
        if config.train.other_teacher or config.method.roles.get(role) != "frozen":
            continue
        if weights_hash(config.source(role), config.loras(role)) != then:
            raise ConfigError(
                f"{last.folder} was trained with another {role} than the one in "
                f"{config.source(role)}{with_loras(config, role)}: restore the "
                f"old one, go on with the new one (train.other_teacher=true), or begin a new run: {new_run(last)}"
            )


def with_loras(config: RunConfig, role: Role) -> str:
    """Text for a message on the LoRAs that are merged into a role's weights."""
    loras = [f"{lora.weight:g} of {lora.path}" for lora in config.loras(role)]
    return f" with model.loras ({', '.join(loras)})" if loras else " without model.loras" * bool(config.model.loras)


def different(config: RunConfig, last: Checkpoint, keys: tuple[str, ...]) -> list[str]:
    """Texts on each key that begins with one of ``keys`` and that a checkpoint's run had otherwise."""
    then, now = flatten(with_defaults(last.state["config"])), flatten(config.dump())
    changed = [key for key in sorted(then.keys() | now.keys()) if then.get(key) != now.get(key)]
    return [f"{key} was {then.get(key)} and is {now.get(key)}" for key in changed if key.startswith(keys)]


def otherwise_trained(config: RunConfig, last: Checkpoint) -> list[str]:
    """Texts on keys of method and adapters, which make a student what it is, that a checkpoint's run had otherwise."""
    return different(config, last, ("method.", "model.family", *(f"roles.{role}.lora" for role in config.method.roles)))


def new_run(last: Checkpoint) -> str:
    """Text for a message on how to begin a run with the weights of a checkpoint."""
    return f"another name, with train.init_from={last.folder} to begin with these weights"


def averages(config: RunConfig, last: Checkpoint) -> list[str]:
    """Lines on roles whose average a run keeps from now on, or no longer keeps."""
    then, lines = with_defaults(last.state["config"]).get("roles", {}), []
    for role in config.roles:
        before, now = (then.get(role) or {}).get("ema_decay"), config.role(role).ema_decay
        if before is None and now is not None:
            lines.append(
                f"roles.{role}.ema_decay = {now:g} is new: its average begins with the weights of step {last.step}"
            )
        if before is not None and now is None:
            lines.append(f"roles.{role}.ema_decay is gone: its average is dropped")
    return lines


def with_defaults(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stored configuration with defaults for keys that later versions added, so that old checkpoints still load."""
    try:
        return RunConfig.model_validate(stored).dump()
    except ValidationError:
        return stored
