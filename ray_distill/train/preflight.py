"""Preflight: look at a run's teacher, captions and clips before it trains, by samples: ray-distill preflight CONFIG"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from ray_distill.config import ConfigError, RunConfig
from ray_distill.data.store.cache import Cache
from ray_distill.export.teacher import compared_size, link_teacher
from ray_distill.export.verify import verify
from ray_distill.train.cycles import compared, measure_cycles
from ray_distill.train.driver.check import check, warnings
from ray_distill.train.driver.checks.evaluation import check_cache
from ray_distill.train.driver.cluster import cluster
from ray_distill.train.driver.console import say
from ray_distill.train.driver.run_lock import claim
from ray_distill.train.driver.signals import watch_signals
from ray_distill.train.launch import cache_of
from ray_distill.train.looks import Findings, guidance_of, look, look_at_plan, write
from ray_distill.types import TEACHER


def preflight(config: RunConfig) -> Findings:
    """Prepare the run's cache as `train` does, sample its teacher, and compare our sampler with diffusers' pipeline.

    Trains a few cycles aside, for their seconds and bytes, and removes what they leave. Writes the teacher's videos, a
    contact sheet and the numbers into ``preflight/`` of the run's folder. Nothing is tracked. ConfigError where the
    configuration would fail later.
    """
    check(config)
    seen = Findings(warnings=[*warnings(config)])
    seen.lines.append(f"{config.method.name}: {config.method.describe()}")
    with claim(config.run_dir), cluster(), watch_signals() as signals:
        cache = cache_of(config)
        check_cache(config, cache)
        look(config, cache, seen)
        planned = look_at_plan(config, seen)
        if config.evaluate.preflight.cycles:
            lines, seen.numbers["measured"] = compared(
                planned, measure_cycles(config, cache, signals), config.train.use_gpu
            )
            seen.lines += lines
    if TEACHER in config.method.roles and config.evaluate.preflight.compare:
        _compare(config, cache, seen)
    write(config, seen)
    return seen


def _compare(config: RunConfig, cache: Cache, seen: Findings) -> None:
    """Sample one clip of the teacher by diffusers' pipeline and by our sampler, on the CPU in fp32."""
    settings = config.evaluate.preflight
    size = compared_size(config.model.pipeline, config.shown_size)
    prompts = list(config.evaluate.prompts.values()) or cache.captions()
    say(f"   a clip of {' x '.join(map(str, size))} by diffusers' own pipeline and by our sampler, on the CPU")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = link_teacher(config, Path(scratch).resolve() / "teacher", size)
            difference = verify(folder, prompts[0], timeout_s=float(config.train.timeout_s))
    except (ConfigError, ValueError, RuntimeError, subprocess.TimeoutExpired) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        seen.warnings.append(f"our sampler was not compared with diffusers' pipeline: {lines[0]} {lines[-1]}"[:600])
        return
    seen.numbers["difference"] = difference
    seen.lines.append(
        f"our sampler and diffusers' pipeline: {settings.steps} steps at guidance "
        f"{guidance_of(config)} differ by {difference:.1e} at most in a normalised latent"
    )
    if not difference <= settings.tolerance:
        seen.errors.append(
            f"our sampler and diffusers' pipeline differ by {difference:.1e}, more than evaluate.preflight.tolerance "
            f"= {settings.tolerance:g}: the student would learn from a teacher that samples otherwise than diffusers' "
            "pipeline"
        )
