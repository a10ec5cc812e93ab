"""Compare the student with its teacher at many steps and, guided, at as few: same prompts, same noise, one report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from ray_distill.bars import bar
from ray_distill.config import RunConfig
from ray_distill.config.measures import LEAST, ratio_name
from ray_distill.data.store.cache import Cache
from ray_distill.diffusion.timesteps import euler_timesteps
from ray_distill.evaluate import distances as sets
from ray_distill.evaluate.generate import Generator
from ray_distill.evaluate.guided import best_guided
from ray_distill.evaluate.kept import to_keep
from ray_distill.evaluate.metrics import (
    Ratio,
    by_prompt,
    cosine_diversity_by_prompt,
    diversity_by_prompt,
    frechet_distance,
    mean_by_prompt,
    paired_difference,
    paired_ratio,
)
from ray_distill.evaluate.metrics.networks import cut_prompts
from ray_distill.evaluate.names import BASELINE, BESIDE, COMPARED
from ray_distill.evaluate.report import contact_sheet, line, measured_heading, misses
from ray_distill.evaluate.samples import Candidate, Samples
from ray_distill.evaluate.videos import beside, write_videos
from ray_distill.evaluate.waiting import wait_for
from ray_distill.types import STUDENT, TEACHER, Sampler

log = logging.getLogger(__name__)
RATED = ("student", "teacher_many")
"""Samplers whose ratio is reported: every seed of theirs is measured, and the first seed of the others."""
GUIDED = "teacher_same_steps_guided"


def teachers(config: RunConfig) -> dict[str, Candidate]:
    """The teacher with many steps and with the student's evaluations, by the report's names; {} without a teacher."""
    if TEACHER not in config.method.roles:
        return {}
    settings, nfe, experts = config.evaluate, config.method.sampler().nfe, config.method.teachers
    many = euler_timesteps(settings.teacher_steps, settings.teacher_shift)
    guided = experts and replace(experts, low_guidance_scale=settings.teacher_guidance_low)
    same_nfe = Sampler(euler_timesteps(nfe, settings.teacher_shift), "ode", experts=experts)
    audio = settings.teacher_audio_guidance
    of_many = Sampler(many, "ode", settings.teacher_guidance, experts=guided, audio_guidance_scale=audio)
    return {
        "teacher_many": Candidate(TEACHER, of_many),
        "teacher_same_nfe": Candidate(TEACHER, same_nfe),
    }


def candidates(config: RunConfig, checkpoint: Path, guided: Sampler | None) -> dict[str, Candidate]:
    """The candidates of a comparison, by the report's names. A method without a teacher is its own teacher_many."""
    student = config.method.sampler()
    if TEACHER not in config.method.roles:
        return {"student": Candidate(STUDENT, student, checkpoint)}
    first_weights = config.train.init_from
    rows = {
        **teachers(config),
        GUIDED: Candidate(TEACHER, guided) if guided else None,
        "student_before": Candidate(STUDENT, student, first_weights, averaged=first_weights is None),
        "student": Candidate(STUDENT, student, checkpoint),
    }
    return {name: row for name, row in rows.items() if row is not None}


def baseline(config: RunConfig, cache: Cache) -> Path | None:
    """Sample videos of the teacher, with many steps and with the student's evaluations; returns their folder, None if
    it already exists."""
    out = config.run_dir / BASELINE
    if out.is_dir():
        return None
    generator = Generator(config, cache)
    tasks = {
        name: generator.start(candidate, config.evaluate.tune_seed) for name, candidate in teachers(config).items()
    }
    for name, task in tasks.items():
        samples: Samples = ray.get(task, timeout=config.train.timeout_s)
        write_videos(out / name, samples, generator.prompts, config.data.fps)
    return out


def evaluate(
    config: RunConfig, cache: Cache, checkpoint: Path, out: Path, say: Callable[[str], None] = log.info
) -> dict[str, Any]:
    """Measure the student of ``checkpoint`` against its teacher; videos and the contact sheet go to ``out``.

    Returns the report: per sampler frechet, frechet_spread (standard deviation over sampling seeds), accuracy,
    diversity, each of evaluate.metrics, nfe, seconds_per_video; the student's ratios to the many-step teacher, and the
    ratios of the teacher's first sampling seed to its second, which show chance. Without a metric it has pictures,
    measures and seconds only.
    """
    settings = config.evaluate
    generator = Generator(config, cache)
    compared, guides = candidates(config, checkpoint, None), settings.metric is not None and bool(teachers(config))
    kept, note = to_keep(config, [*compared, *[GUIDED] * guides], RATED, len(generator.prompts))
    if note is not None:
        say(note)

    def start(name: str, c: Candidate) -> list[ray.ObjectRef[Samples]]:
        return [
            generator.start(c, seed, measured=name in RATED or seed == settings.seeds[0], keep=(name, seed) in kept)
            for seed in settings.seeds
        ]

    # Before the guided teacher is chosen, which waits for the real clips and twice for samples: nothing is idle then.
    pending = {name: start(name, candidate) for name, candidate in compared.items()}
    real = generator.real
    guided = best_guided(config, generator, real, say) if real is not None and guides else None
    if guided is not None:
        compared = candidates(config, checkpoint, guided)
        pending[GUIDED] = start(GUIDED, compared[GUIDED])
    report: dict[str, Any] = {}
    columns: dict[str, np.ndarray] = {}
    sampled: dict[str, list[Samples]] = {}
    videos_each = len(generator.prompts)
    with bar("   videos", videos_each * len(compared) * len(settings.seeds)) as shown:
        for name, candidate in compared.items():
            sampled[name] = samples = wait_for(pending.pop(name), config.train.timeout_s, shown, videos_each)
            report[name] = summary(samples, real, candidate.sampler, generator.prompts)
            columns[measured_heading(name, report[name])] = samples[0].videos
            say(line(name, report[name]))
    contact_sheet(out / "contact_sheet.png", columns, generator.prompts[: settings.pictures])
    for name, samples in sampled.items():
        write_videos(out / COMPARED / name, samples[0], generator.prompts, config.data.fps)
    if "teacher_many" in sampled:
        pairs = beside(sampled["teacher_many"][0], sampled["student"][0])
        write_videos(out / COMPARED / BESIDE, pairs, generator.prompts, config.data.fps)
    if guided is not None:
        report[GUIDED] |= {"guidance_scale": guided.guidance_scale, "timesteps": guided.timesteps}
    if TEACHER in config.method.roles:
        of_both = sampled["student"], sampled["teacher_many"], generator.prompts
        report |= against_teacher(*of_both) | sets.against_teacher(*of_both)
        if note := sets.small(report.get("distances", {}), report.get("teacher_distances", {})):
            say(note)
    if text := settings.networks.text:
        distinct = sorted(set(generator.prompts))
        report["text_prompts_cut"] = cut = cut_prompts(text, distinct)
        if cut:
            say(f"text_agreement: CLIP reads only the first tokens of {cut} of {len(distinct)} prompts; shorten them")
    report |= {"seeds": len(settings.seeds), "videos_per_seed": len(generator.prompts)}
    return report | {"missed": misses(report, settings.goals)}


def video_diversity(seeds: Sequence[Samples], prompts: Sequence[str]) -> dict[str, float]:
    """Diversity of the videos of each prompt over all ``seeds``, by the video network; {} without one, or where no
    prompt has two videos."""
    features = [samples.video_features for samples in seeds if samples.video_features is not None]
    return cosine_diversity_by_prompt(torch.cat(features), [*prompts] * len(features)) if features else {}


def summary(seeds: Sequence[Samples], real: Tensor | None, sampler: Sampler, prompts: Sequence[str]) -> dict[str, Any]:
    """One sampler's row of the report, over sampling seeds; values are None without a metric."""
    spread = video_diversity(seeds, prompts)
    distances = [frechet_distance(m.features, real) for m in seeds if m.features is not None and real is not None]
    right, varied = ([v for m in seeds if (v := getattr(m, name)) is not None] for name in ("accuracy", "diversity"))
    measured = [samples.measures for samples in seeds if samples.measures]
    return {
        "frechet": float(np.mean(distances)) if distances else None,
        "frechet_spread": float(np.std(distances, ddof=1)) if len(distances) > 1 else None,
        "accuracy": float(np.mean(right)) if right else None,
        "diversity": float(np.mean(varied)) if varied else None,
        **{name: float(torch.cat([each[name] for each in measured]).mean()) for name in seeds[0].measures},
        **({"video_diversity": float(np.mean(list(spread.values())))} if spread else {}),
        "nfe": sampler.nfe,
        "seconds_per_video": float(np.median([m.seconds_per_video for m in seeds])),
    }


def against_teacher(
    student: Sequence[Samples], teacher: Sequence[Samples], prompts: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Compare the student with its teacher (``ratios``), and the teacher's first sampling seed with its second
    (``teacher_seeds``), which shows the effect of chance."""
    of_student = {"ratios": ratios(student, teacher, prompts)}
    if len(teacher) < 2:
        return of_student
    return of_student | {"teacher_seeds": ratios(teacher[:1], teacher[1:2], prompts)}


def ratios(
    student: Sequence[Samples], teacher: Sequence[Samples], prompts: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Ratios of the student's mean to the teacher's, by measure and for diversity, each with its 95 % interval over
    prompts; for rates the difference of the means.

    It leaves out a measure whose mean for the teacher is close to 0.
    """

    def arms(measure: Callable[[Samples], dict[str, float]]) -> list[dict[str, float]]:
        return [mean_by_prompt([measure(samples) for samples in several]) for several in (student, teacher)]

    compared = {
        name: arms(lambda samples, name=name: by_prompt(samples.measures[name].numpy(), prompts))  # type: ignore[misc]
        for name in student[0].measures
    }
    if all(samples.video_features is not None for samples in (*student, *teacher)):
        compared["video_diversity"] = [video_diversity(several, prompts) for several in (student, teacher)]
    if all(samples.features is not None for samples in (*student, *teacher)):
        compared["diversity"] = arms(lambda samples: diversity_by_prompt(samples.features, prompts))  # type: ignore[arg-type]
    measured: dict[str, Ratio] = {}
    for name, (of_student, of_teacher) in compared.items():
        least = LEAST.get(name, 0.0)
        if least is None:
            measured[ratio_name(name)] = paired_difference(of_student, of_teacher)
        elif of_teacher and np.mean(list(of_teacher.values())) > least:
            measured[ratio_name(name)] = paired_ratio(of_student, of_teacher)
    return {name: asdict(ratio) for name, ratio in measured.items()}
