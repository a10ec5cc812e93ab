"""Check datasets of latents that another tool encoded."""

from __future__ import annotations

import time

from ray_distill.config import ConfigError, RunConfig
from ray_distill.data.prepare.first_rows import Budget
from ray_distill.data.prepare.latents import first_faults
from ray_distill.data.prepare.listing import entries_of
from ray_distill.data.read.remote import is_remote
from ray_distill.models.spec import of_clips

SECONDS = 5.0
"""Seconds for the first rows of all datasets together."""
ROWS = 1000
"""Most rows of a file."""


def check_latents(config: RunConfig) -> None:
    """ConfigError for latents that do not suit the pipeline, and for a dataset without one usable row. The preparation
    reads what lies beyond the first rows, and counts and names what it leaves out."""
    numbers = config.data.numbers_of("latents")
    if not numbers:
        return
    key = f"data.datasets.{numbers[0]}.latents = {config.data.parts[numbers[0]].place}"
    models, where = config.model.encoders, config.model.pipeline.where
    if of_clips(models.fields):
        raise ConfigError(
            f"{key}: {where} begins from a picture, and latents come without one; give the videos, "
            "data.datasets=[{videos: FOLDER}], or a text-to-video pipeline"
        )
    if config.model.pipeline.of.sound is not None:
        raise ConfigError(f"{key}: clips of {where} have sound, and latents come without; give the videos")
    if config.data.stream:
        raise ConfigError(
            f"{key}: data.stream = true encodes videos beside the training; latents need no encoding: "
            "use data.stream=false"
        )
    config.model.pipeline.statistics  # noqa: B018 (a VAE without them is refused)
    end, shapes = time.monotonic() + SECONDS, models.shapes_of_latents(config.data)
    for number in numbers:
        _check_rows(config, number, shapes[number], Budget(end))


def _check_rows(config: RunConfig, number: int, shape: tuple[int, ...], more: Budget) -> None:
    """ConfigError where none of a dataset's rows is usable; it names the first fault."""
    place, first = config.data.parts[number].place, ""
    if is_remote(place):
        return
    for entry in entries_of(config.data, number, more):
        rows = [("", entry.error)] if entry.error else first_faults(entry.path, shape)
        for count, (row, fault) in enumerate(rows, 1):
            if not fault:
                return
            first = first or f"{entry.video}{row and f', {row}'}: {fault}"
            if count == ROWS or not more():
                return
    if first:
        raise ConfigError(f"data.datasets.{number}.latents = {place}: none of its rows can be used; the first: {first}")


def warnings_of_latents(config: RunConfig) -> list[str]:
    """Words on the parts of a run that leave latents out."""
    numbers = config.data.numbers_of("latents")
    if not numbers:
        return []
    key = f"data.datasets.{numbers[0]}.latents"
    texts = [
        f"{key}: these clips have no pixels, so contact_sheet.png, evaluate.metric and the motion of clips leave them "
        "out; that model.path's VAE encoded them cannot be checked. Captions are encoded anew"
    ]
    if not config.method.uses_latents:
        texts.append(
            f"{key}: method {config.method.name!r} as set here reads prompts alone, so only the captions of these "
            "rows train the student, and the copy of the latents in data.cache_dir is of no use to this run. Give "
            "prompts in their place, or for dmd method.backward_simulation=false"
        )
    return texts
