"""Rules for the method: DMD and Self-Forcing."""

from __future__ import annotations

from typing import Any

from ray_distill.fastvideo.file import File
from ray_distill.simpletuner.outcome import Outcome
from ray_distill.simpletuner.values import Refused, flag, number, text, whole

METHODS = {
    "fastvideo.train.methods.distribution_matching.dmd2.DMD2Method": "dmd",
    "fastvideo.train.methods.distribution_matching.self_forcing.SelfForcingMethod": "self_forcing",
}
RATIOS = {"min": ("method.score_min", 0.001), "max": ("method.score_max", 0.999)}
"""Our key and the level that stands for 0 or for 1, at which two scores have nothing to compare."""


def method(key: str, value: Any, file: File) -> Outcome:
    if text(value) not in METHODS:
        raise Refused(f"only {' and '.join(METHODS)} are imported; write a configuration of this tool for another one")
    # Both train the critic on the clip of the student's step, and at each step.
    return Outcome({"method.name": METHODS[value], "method.reuse_rollout": True, "method.student_turn": "joins"})


def rollout_mode(key: str, value: Any, file: File) -> Outcome:
    mode = text(value).strip().lower()
    if mode in ("simulate", "sim"):
        return Outcome({"method.backward_simulation": True})
    if not file.reads_latents:
        raise Refused("use simulate or data_latent")
    if file.causal:
        raise Refused("Self-Forcing starts from its own rollout; use simulate")
    return Outcome({"method.backward_simulation": False})


def interval(key: str, value: Any, file: File) -> Outcome:
    return Outcome({"method.student_interval": file.interval})


def guidance(key: str, value: Any, file: File) -> Outcome:
    note = (
        "u + s (c - u), as the code of fastvideo.train computes it; FastVideo's page on DMD describes c + s (c - u), "
        "the form of its older trainer: for that one set method.teacher_guidance_form=extra"
    )
    return Outcome({"method.teacher_guidance": number(value), "method.teacher_guidance_form": "std"}, note, warn=True)


def steps(key: str, value: Any, file: File) -> Outcome:
    if not isinstance(value, list) or not value:
        raise Refused("expected a list of timesteps, such as [1000, 750, 500, 250]")
    return Outcome({"method.timesteps": [number(each) for each in value]})


def warp(key: str, value: Any, file: File) -> Outcome:
    """Warp the steps by a shift: Self-Forcing's is the pipeline's, DMD's the student's own."""
    shift = file.read("pipeline.flow_shift", number, 0.0) if file.causal else file.shift
    if not flag(value):
        return Outcome({"method.warp_denoising_step": False})
    return Outcome({"method.warp_denoising_step": True, "method.flow_shift": shift or 1.0})


def ratio(key: str, value: Any, file: File) -> Outcome:
    end = key.rpartition(".")[2].partition("_")[0]
    ours, instead = RATIOS[end]
    level = number(value)
    edge = level == (0 if end == "min" else 1)
    return Outcome({ours: instead if edge else level}, f"{level:g} becomes {instead:g}" if edge else "")


def unconditional(key: str, value: Any, file: File) -> Outcome:
    if key.endswith(".on_missing"):
        return Outcome(note="no effect: nothing is missing")
    if value == "negative_prompt" and key.endswith(".text"):
        return Outcome(note="data.negative_prompt, as here")
    if value == "keep" and not key.endswith(".text"):
        return Outcome(note="no effect: text to video has no such condition")
    raise Refused("guidance is against the negative prompt here, and all other conditions stay; remove it")


def gradient(key: str, value: Any, file: File) -> Outcome:
    if not flag(value):
        raise Refused("a rollout without gradient trains nothing; use true")
    return Outcome(note="as here")


def gradient_start(key: str, value: Any, file: File) -> Outcome:
    if whole(value):
        raise Refused("every chunk has a gradient here; use 0")
    return Outcome(note="as here")


def window(key: str, value: Any, file: File) -> Outcome:
    if not file.causal:
        return Outcome(note="no effect: the student sees the whole clip")
    return Outcome({"method.window": whole(value) if whole(value) > 0 else None})


def sink(key: str, value: Any, file: File) -> Outcome:
    return Outcome({"method.sink": whole(value)}) if file.causal else Outcome(note="no effect: no window")
