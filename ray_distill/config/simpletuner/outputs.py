"""Where a run is seen and what validations show: rules for SimpleTuner's keys."""

from __future__ import annotations

import re
from typing import Any

from ray_distill.config.simpletuner.files import prompts
from ray_distill.config.simpletuner.method import steps
from ray_distill.config.simpletuner.outcome import (
    File,
    Outcome,
    Refused,
    as_name,
    flag,
    four_k_plus_one,
    is_hub_name,
    number,
    text,
    whole,
)


def run_name(value: Any, file: File) -> Outcome:
    name = as_name(text(value))
    return Outcome({"name": name}, "" if name == value else "a name has letters, digits, '_', '.' and '-'")


def report_to(value: Any, file: File) -> Outcome:
    if value in (None, "none", ""):
        return Outcome({"track.uri": ""})
    return Outcome(note="" if value == "mlflow" else "MLflow takes its place, at track.uri")


def resume(value: Any, file: File) -> Outcome:
    if value == "latest":
        return Outcome({"train.resume_from": "latest"})
    if value in (None, False, "", "none"):
        return Outcome({"train.resume_from": "none"})
    return Outcome({"train.resume_from": str(file.locate(value))})


def publishes(file: File) -> bool:
    return file.flag("push_to_hub") and file.overridden.get("publish", True) is not None


NAMELESS = "hub_model_id names the repository, and is not set; give it, or use --no-push"
NO_PUSH = "nothing is published: push_to_hub is false, or --no-push"


def push(value: Any, file: File) -> Outcome:
    if not flag(value):
        return Outcome(note="nothing is published")
    if not file.given.get("hub_model_id") and not file.overrides("publish"):
        raise Refused(NAMELESS)
    return Outcome(note="see hub_model_id" if publishes(file) else NO_PUSH)


def push_checkpoints(value: Any, file: File) -> Outcome:
    if not publishes(file):
        return Outcome(note=NO_PUSH if flag(value) else "")
    return Outcome({"publish.per_checkpoint": flag(value)})


def hub_model_id(value: Any, file: File) -> Outcome:
    if not publishes(file):
        return Outcome(note=NO_PUSH)
    if not value:
        raise Refused(NAMELESS)
    base = text(file.given.get("pretrained_model_name_or_path", ""))
    note = "" if is_hub_name(base) else "its base is a local folder, which others do not have: set publish.base_model"
    return Outcome({"publish.hub_model_id": text(value), "publish.base_model": base}, note, warn=bool(note))


def webhook(value: Any, file: File) -> Outcome:
    if file.overrides("track.webhook"):
        return Outcome(note="track.webhook is set elsewhere, or --no-push")
    if not isinstance(value, str) or "://" in value:
        raise Refused("the address is a secret: write it into a file, and name that")
    return Outcome({"track.webhook": str(file.locate(value))})


def validation_steps(value: Any, file: File) -> Outcome:
    if file.distillation.get("dmd_denoising_steps") is None:
        return Outcome({"method.sampling_steps": whole(value)})
    own = len(steps(file.distillation["dmd_denoising_steps"], file).values["method.timesteps"])
    if whole(value) == own:
        return Outcome(note="the student's own steps, by its own sampler")
    return Outcome(note=f"no effect: the student is sampled with its own {own} steps", warn=True)


def guidance(value: Any, file: File) -> Outcome:
    if number(value) not in (0.0, 1.0):
        raise Refused("the student has its teacher's guidance within its weights, and is sampled without; set 1.0")
    return Outcome(note="the student is sampled without guidance")


def validation_frames(value: Any, file: File) -> Outcome:
    """The seed's own contradiction is said here: no Wan makes 16 frames."""
    frames = whole(value)
    fitting = four_k_plus_one(frames)
    if frames != fitting:
        note = f"Wan makes 4k+1 frames: {fitting} in place of {frames}"
        return Outcome({"evaluate.frames": fitting}, note, warn=True)
    if frames == file.data.get("data.frames"):
        return Outcome(note="as many as a clip of the data")
    return Outcome({"evaluate.frames": frames})


def validation_resolution(value: Any, file: File) -> Outcome:
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", str(value).lower().strip())
    if not found:
        raise Refused("expected one size, WIDTHxHEIGHT")
    width, height = int(found[1]), int(found[2] or found[1])
    if width % 16 or height % 16 or not width * height:
        near = "x".join(str(max(16, round(n / 16) * 16)) for n in (width, height))
        raise Refused(f"Wan takes multiples of 16; the nearest is {near}")
    # Where clips keep their own aspect, the data's one size is that of samples.
    section = "data" if file.data.get("data.resolution_type") == "pixel_area" else "evaluate"
    return Outcome({f"{section}.width": width, f"{section}.height": height})


def validation_prompt(value: Any, file: File) -> Outcome:
    if file.given.get("validation_prompt_library") is not None:
        return Outcome(note="see validation_prompt_library")
    return prompt_library(None, file)


def prompt_library(value: Any, file: File) -> Outcome:
    if file.overrides("evaluate.prompts"):
        return Outcome(note="evaluate.prompts is set elsewhere")
    found = prompts(file)
    if not found:
        return Outcome(note="validations show captions of the data")
    return Outcome({"evaluate.prompts": found, "evaluate.pictures": len(found)})


def seeds(value: Any, file: File) -> Outcome:
    return Outcome({"evaluate.tune_seed": whole(value), "evaluate.seeds": [whole(value)]})
