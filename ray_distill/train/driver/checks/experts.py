"""Check that the pipeline has as many experts as the method trains."""

from __future__ import annotations

import math

from ray_distill.config import ConfigError, RunConfig
from ray_distill.export.base import check_index
from ray_distill.models.pipeline import INDEX
from ray_distill.models.places import SECOND
from ray_distill.types import LOW


def check_flavour(config: RunConfig) -> None:
    """Refuse one student for a pipeline of two experts; the published name tells this of a folder that does not
    exist."""
    pipeline = config.model.pipeline
    check_index(pipeline.where, pipeline.settings, config.method.sampler().experts is not None)


def check_experts(config: RunConfig) -> None:
    """Check that a method with two teachers has a pipeline with transformer_2 and its boundary; one teacher makes
    clips."""
    experts, folder = config.method.teachers, config.model.path
    for number, part in enumerate(config.data.parts):
        if part.teacher is not None and ((part.teacher.path or folder) / SECOND).is_dir():
            raise ConfigError(
                f"data.datasets.{number}.teacher: {part.teacher.path or folder} has two experts, and the teacher of "
                "clips is one transformer; remove teacher, or give it the path of a pipeline with one transformer"
            )
    check_flavour(config)
    begin = sorted(role for role in LOW & config.method.roles.keys() if config.role(role).path is None)
    if experts is None or not begin:
        return
    what = f"model.path = {folder}"
    if not (folder / SECOND).is_dir():
        raise ConfigError(
            f"{what}: this folder has no {SECOND}, and method {config.method.name!r} trains two experts; give a "
            f"pipeline with both, such as Wan 2.2 A14B, or a path to {', '.join(f'roles.{role}' for role in begin)}; "
            "with one transformer use method.name=dmd"
        )
    ratio = config.model.pipeline.index.get("boundary_ratio")
    if not isinstance(ratio, int | float):
        raise ConfigError(
            f"{what}: its {INDEX} names {SECOND} without boundary_ratio, the level at which this expert takes over; "
            "copy the folder again"
        )
    if not math.isclose(1000 * ratio, experts.boundary, rel_tol=1e-6):
        raise ConfigError(
            f"method.boundary = {experts.boundary / 1000:g}: the teachers of model.path = {folder} were trained for "
            f"boundary_ratio = {ratio:g}; set method.boundary={ratio:g}, and begin method.low_timesteps there"
        )
