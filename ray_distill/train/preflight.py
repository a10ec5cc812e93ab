"""Preflight: look at a run's teacher, captions and clips before it trains, by samples: ray-distill preflight CONFIG"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.evaluate import Goals
from ray_distill.config.measures import ALL, LEAST
from ray_distill.data.prepare.index import summary
from ray_distill.data.store.cache import Cache
from ray_distill.evaluate.compare import teachers
from ray_distill.evaluate.generate import Generator, NotFinite, write_videos
from ray_distill.evaluate.names import PREFLIGHT
from ray_distill.evaluate.report import contact_sheet, write_report
from ray_distill.evaluate.samples import Samples
from ray_distill.export.teacher import compared_size, link_teacher
from ray_distill.export.verify import verify
from ray_distill.plan.estimate import estimate
from ray_distill.plan.hardware import GIB
from ray_distill.secrets import masked
from ray_distill.train.driver.check import check, warnings
from ray_distill.train.driver.checks.evaluation import check_cache
from ray_distill.train.driver.console import say
from ray_distill.train.driver.run_lock import claimed
from ray_distill.train.driver.signals import watch_signals
from ray_distill.train.launch import cache_of, cluster
from ray_distill.types import TEACHER

FOLDER, SHEET = "preflight", "contact_sheet.png"


@dataclass
class Findings:
    """Lines to print, warnings, which stop nothing, and errors, after which a run would be wasted."""

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)


def preflight(config: RunConfig) -> Findings:
    """Prepare the run's cache as `train` does, sample its teacher, and compare our sampler with diffusers' pipeline.

    Writes the teacher's videos, a contact sheet and the numbers into ``preflight/`` of the run's folder. Nothing is
    trained and nothing is tracked. ConfigError where the configuration would fail later.
    """
    check(config)
    seen = Findings(warnings=[*warnings(config)])
    seen.lines.append(f"{config.method.name}: {config.method.describe()}")
    with claimed(config.run_dir), cluster(), watch_signals():
        cache = cache_of(config)
        check_cache(config, cache)
        _look_at_data(cache.card, seen)
        if TEACHER in config.method.roles:
            settings = config.evaluate
            seen.lines.append(
                f"teacher: {settings.teacher_steps} Euler steps, shift {settings.teacher_shift:g}, guidance "
                f"u + s (c - u), s = {settings.teacher_guidance:g} (evaluate.teacher_guidance)"
            )
            _sample_teacher(config, cache, seen)
        else:
            seen.lines.append(f"method {config.method.name!r} has no teacher: nothing is sampled")
    if TEACHER in config.method.roles and config.evaluate.preflight.compare:
        _compare(config, cache, seen)
    _plan(config, seen)
    words = {"lines": seen.lines, "warnings": seen.warnings, "errors": seen.errors}
    write_report(config.run_dir / PREFLIGHT, masked({**seen.numbers, **words}))
    return seen


def _look_at_data(card: Mapping[str, Any], seen: Findings) -> None:
    """Clips by bucket, and lengths of captions."""
    seen.lines.append(f"data: {summary(card)}")
    seen.numbers["data"] = {name: card[name] for name in ("clips", "skipped", "buckets", "captions", "captions_cut")}
    if tokens := card.get("tokens"):  # new in cards
        seen.numbers["tokens"] = tokens
        seen.lines.append(
            f"captions: {tokens['median']} tokens in the median, {tokens['most']} at most; the model takes "
            f"{tokens['taken']}, so {card['captions_cut']} captions are cut"
        )
    if cut := card.get("captions_cut"):
        seen.warnings.append(
            f"{cut} captions have more tokens than model.max_sequence_length and are cut: raise it, or shorten them"
        )


def _sample_teacher(config: RunConfig, cache: Cache, seen: Findings) -> None:
    """Sample ``evaluate.pictures`` prompts by the many-step teacher, and measure the videos."""
    settings = config.evaluate.model_copy(update={"metric": None, "metrics": ALL, "goals": Goals()})
    small = config.model_copy(update={"evaluate": settings})
    generator, teacher = Generator(small, cache), teachers(small)["teacher_many"]
    say(f"   {len(generator.prompts)} videos of the teacher, {teacher.sampler.nfe} network evaluations each")
    try:
        samples: Samples = ray.get(generator.start(teacher, settings.seeds[0]), timeout=config.train.timeout_s)
    except NotFinite as error:  # Ray raises a task's error as its own class
        seen.errors.append(str(getattr(error, "cause", error)))
        return
    out = config.run_dir / FOLDER
    write_videos(out / "teacher_many", samples.videos, generator.prompts, config.data.fps)
    count = min(len(samples.videos), len(generator.prompts))
    contact_sheet(out / SHEET, {"teacher": samples.videos[:count]}, generator.prompts[:count])
    means = {name: float(values.mean()) for name, values in samples.measures.items()}
    seconds = samples.seconds_per_video
    seen.numbers["teacher"] = {**means, "nfe": teacher.sampler.nfe, "seconds_per_video": seconds}
    seen.lines.append(
        f"teacher's videos: motion {means['motion']:.3f} short sides a second, {means['moving']:.0%} of them move; "
        f"saturation {means['saturation']:.3f}; {seconds:.3g} s a video, {seconds / teacher.sampler.nfe:.3g} s a "
        f"network evaluation: {out / SHEET}"
    )
    judge(means, config, seen)


def judge(means: Mapping[str, float], config: RunConfig, seen: Findings) -> None:
    """Warn of a teacher that is static or grey; hold its measures against ``evaluate.preflight.within``."""
    if means["motion"] <= (LEAST["motion"] or 0.0) or means["moving"] == 0:
        seen.warnings.append(
            f"the teacher is static: motion {means['motion']:.4f} short sides a second, {means['moving']:.0%} of its "
            "videos move. A student learns what its teacher shows: look at the contact sheet, at "
            "evaluate.teacher_guidance and at the prompts"
        )
    elif means["moving"] < 0.5:
        seen.warnings.append(f"the teacher is static in most videos: {means['moving']:.0%} of them move")
    if means["saturation"] <= (LEAST["saturation"] or 0.0):
        seen.warnings.append(
            f"the teacher's videos are grey (saturation {means['saturation']:.4f}): a ratio of saturation will mean "
            "nothing"
        )
    for name, bounds in config.evaluate.preflight.within.items():
        if bounds.excess(means[name]) > 0:
            seen.errors.append(f"the teacher's {name} is {means[name]:.4g}, and evaluate.preflight asks for {bounds}")


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
        f"{config.evaluate.teacher_guidance:g} differ by {difference:.1e} at most in a normalised latent"
    )
    if not difference <= settings.tolerance:
        seen.errors.append(
            f"our sampler and diffusers' pipeline differ by {difference:.1e}, more than evaluate.preflight.tolerance "
            f"= {settings.tolerance:g}: the student would learn from a teacher that samples otherwise than diffusers' "
            "pipeline"
        )


def _plan(config: RunConfig, seen: Findings) -> None:
    """Add the plan's figures; a run that plan does not know costs a line."""
    try:
        planned = estimate(config)
    except ValueError as error:
        seen.lines.append(f"not planned: {error}")
        return
    seen.numbers["planned"] = {"memory": planned.peak.total, "checkpoint": planned.checkpoint}
    seen.lines.append(
        f"plan: {planned.peak.total / GIB:.2f} GiB a worker, most in: {planned.peak.name}; a checkpoint of "
        f"{planned.checkpoint / 1e9:.3g} GB"
    )
