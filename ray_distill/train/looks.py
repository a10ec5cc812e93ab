"""Look at a run before it trains: its data, samples of its teacher, its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray

from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.evaluate import Goals
from ray_distill.config.measures import ALL, LEAST
from ray_distill.data.prepare.index import summary
from ray_distill.data.store.cache import Cache
from ray_distill.evaluate.compare import teachers
from ray_distill.evaluate.generate import Generator
from ray_distill.evaluate.latents import NotFinite
from ray_distill.evaluate.metrics import measures
from ray_distill.evaluate.names import PREFLIGHT
from ray_distill.evaluate.report import contact_sheet, write_report
from ray_distill.evaluate.samples import Samples
from ray_distill.evaluate.videos import write_videos
from ray_distill.plan.estimate import Estimate, estimate
from ray_distill.plan.hardware import GIB
from ray_distill.secrets import mask_tree
from ray_distill.train.driver.console import say
from ray_distill.types import TEACHER

FOLDER, SHEET = "preflight", "contact_sheet.png"


@dataclass
class Findings:
    """Lines to print, warnings, which stop nothing, and errors, after which a run would be wasted."""

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)


def guidance_of(config: RunConfig) -> str:
    """The teacher's guidance in samples, in words."""
    scale, audio = config.evaluate.teacher_guidance, config.evaluate.teacher_audio_guidance
    return f"{scale:g}" if audio is None else f"{scale:g}, of sound {audio:g}"


def look(config: RunConfig, cache: Cache, seen: Findings, samples: bool = True) -> None:
    """Look at the data and, with ``samples``, at samples of the teacher, on the Ray that has been started."""
    look_at_data(cache.card, seen)
    look_at_motion(config, cache, seen)
    if not samples or not config.evaluate.preflight.samples:
        return
    if TEACHER not in config.method.roles:
        seen.lines.append(f"method {config.method.name!r} has no teacher: nothing is sampled")
        return
    settings = config.evaluate
    seen.lines.append(
        f"teacher: {settings.teacher_steps} Euler steps, shift {settings.teacher_shift:g}, guidance "
        f"u + s (c - u), s = {guidance_of(config)} (evaluate.teacher_guidance)"
    )
    sample_teacher(config, cache, seen)


def write(config: RunConfig, seen: Findings) -> None:
    """Write numbers and words into the run's folder, for its page."""
    words = {"lines": seen.lines, "warnings": seen.warnings, "errors": seen.errors}
    write_report(config.run_dir / PREFLIGHT, mask_tree({**seen.numbers, **words}))


def first_look(config: RunConfig, cache: Cache) -> None:
    """The first phase of a new run on GPUs; ConfigError for what `ray-distill preflight` calls an error.

    It neither loads the teacher into the driver, to compare samplers, nor trains aside: the run itself begins next. It
    samples the teacher only if the run does so later: a teacher may be too large for one GPU.
    """
    seen, settings = Findings(), config.evaluate
    look(config, cache, seen, samples=settings.enabled or settings.baseline or settings.every is not None)
    write(config, seen)
    for line in (*seen.lines, *(f"warning: {text}" for text in seen.warnings)):
        say(f"   {line}")
    if seen.errors:
        raise ConfigError(f"{'; '.join(seen.errors)} (evaluate.preflight.first=false trains without this look)")


def look_at_data(card: Mapping[str, Any], seen: Findings) -> None:
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


def look_at_motion(config: RunConfig, cache: Cache, seen: Findings) -> None:
    """Count clips of the data by motion, of at most ``evaluate.preflight.clips``, which are decoded again."""
    most = config.evaluate.preflight.clips
    if not most or not config.data.has_videos:
        return
    from ray_distill.data.prepare.pipeline import real_videos  # imports Ray Data, which other looks do not need

    try:
        clips = [row["pixels"] for row in real_videos(config.data, cache).take(most) if row["error"] == ""]
    except ValueError as gone:  # a cache can train without the files that it was made of
        seen.lines.append(f"motion of clips was not measured: {gone}")
        return
    rows = [measures(clip[None], config.data.fps, ("motion", "moving")) for clip in clips]
    motion = np.array([row["motion"].item() for row in rows])
    moving = sum(row["moving"].item() for row in rows)
    count_moving(motion, int(moving), seen)


def count_moving(motion: np.ndarray, moving: int, seen: Findings) -> None:
    """Say how fast clips move; ``motion`` [clips] is in short sides a second, and ``moving`` of them move."""
    if not len(motion):
        return
    low, middle, high = (float(value) for value in np.quantile(motion, (0.1, 0.5, 0.9)))
    still = int((motion <= (LEAST["motion"] or 0.0)).sum())
    seen.numbers["clips_motion"] = {"clips": len(motion), "moving": moving, "static": still, "median": middle}
    seen.lines.append(
        f"motion of {len(motion)} clips: {low:.3f} to {high:.3f} short sides a second (10 % to 90 %), median "
        f"{middle:.3f}; {moving} of them move, {still} are static"
    )
    if moving < len(motion) / 2:
        seen.warnings.append(
            f"{len(motion) - moving} of {len(motion)} clips hardly move, and methods that learn from clips will learn "
            "that: choose clips with more motion"
        )


def sample_teacher(config: RunConfig, cache: Cache, seen: Findings) -> None:
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
    write_videos(out / "teacher_many", samples, generator.prompts, config.data.fps)
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


def look_at_plan(config: RunConfig, seen: Findings) -> Estimate | None:
    """Add the plan's figures, and return the plan; a run that plan does not know costs a line."""
    try:
        planned = estimate(config)
    except ValueError as error:
        seen.lines.append(f"not planned: {error}")
        return None
    seen.numbers["planned"] = {"memory": planned.peak.total, "checkpoint": planned.checkpoint}
    seen.lines.append(
        f"plan: {planned.peak.total / GIB:.2f} GiB a worker, most in: {planned.peak.name}; a checkpoint of "
        f"{planned.checkpoint / 1e9:.3g} GB"
    )
    return planned
