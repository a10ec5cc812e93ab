"""Look at a run before it trains: its data, samples of its teacher, its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from ray_distill.config import RunConfig
from ray_distill.config.evaluate import Goals
from ray_distill.config.measures import ALL, LEAST
from ray_distill.data.prepare.index import summary
from ray_distill.data.store.cache import Cache
from ray_distill.evaluate.compare import teachers
from ray_distill.evaluate.generate import Generator, NotFinite, write_videos
from ray_distill.evaluate.report import contact_sheet
from ray_distill.evaluate.samples import Samples
from ray_distill.plan.estimate import estimate
from ray_distill.plan.hardware import GIB
from ray_distill.train.driver.console import say

FOLDER, SHEET = "preflight", "contact_sheet.png"


@dataclass
class Findings:
    """Lines to print, warnings, which stop nothing, and errors, after which a run would be wasted."""

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)


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


def look_at_plan(config: RunConfig, seen: Findings) -> None:
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
