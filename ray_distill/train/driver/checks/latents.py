"""Check datasets of latents that another tool encoded."""

from __future__ import annotations

import time

from ray_distill.config import ConfigError, RunConfig
from ray_distill.data.prepare.first_rows import Budget
from ray_distill.data.prepare.latents import first_faults
from ray_distill.data.prepare.listing import entries_of
from ray_distill.data.read.remote import is_remote
from ray_distill.models.spec import of_captions, of_clips

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
    widths = _widths_of_text(config)
    config.model.pipeline.statistics  # noqa: B018 (a VAE without them is refused)
    end, shapes = time.monotonic() + SECONDS, models.shapes_of_latents(config.data)
    for number in numbers:
        _check_rows(config, number, shapes[number], widths.get(number), Budget(end))


def _widths_of_text(config: RunConfig) -> dict[int, int]:
    """Numbers of a token, by number of each dataset that brings text embeddings; ConfigError for a family whose
    captions have other fields than one text."""
    models, parts = config.model.encoders, config.data.parts
    fields = of_captions(models.fields)
    number = next((number for number, part in enumerate(parts) if part.text_embeddings), None)
    if number is not None and (set(fields) != {"text"} or fields["text"].padding == "whole"):
        raise ConfigError(
            f"data.datasets.{number}.text_embeddings = true: a caption of family {config.model.family!r} is more than "
            "the states of one T5 up to its last token; use false, and the captions are encoded"
        )
    return models.widths_of_text(config.data)


def _check_rows(config: RunConfig, number: int, shape: tuple[int, ...], width: int | None, more: Budget) -> None:
    """ConfigError where none of a dataset's rows is usable; it names the first fault."""
    place, first = config.data.parts[number].place, ""
    if is_remote(place):
        return
    for entry in entries_of(config.data, number, more):
        rows = [("", entry.error)] if entry.error else first_faults(entry.path, shape, width)
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
    own = any(part.text_embeddings for part in config.data.parts)
    captions = "Some text embeddings are compared with the encoder's" if own else "Captions are encoded anew"
    texts = [
        f"{key}: these clips have no pixels, so contact_sheet.png, evaluate.metric and the motion of clips leave them "
        f"out; that model.path's VAE encoded them cannot be checked. {captions}"
    ]
    if not config.method.uses_latents:
        texts.append(
            f"{key}: method {config.method.name!r} as set here reads prompts alone, so only the captions of these "
            "rows train the student, and the copy of the latents in data.cache_dir is of no use to this run. Give "
            "prompts in their place, or for dmd method.backward_simulation=false"
        )
    return texts
