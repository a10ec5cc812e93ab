"""Rules for SimpleTuner's keys on the content and times of validations."""

from __future__ import annotations

import re
from math import sqrt
from typing import Any

from ray_distill.simpletuner.files import LIBRARIES, prompts
from ray_distill.simpletuner.lengths import codec_of
from ray_distill.simpletuner.method import steps
from ray_distill.simpletuner.outcome import File, Outcome
from ray_distill.simpletuner.values import Refused, flag, number, one_or_more, whole
from ray_distill.simpletuner.weights import from_picture

NONE = "validation_disable is true: none are made"
OF_DATA = "validations show captions and first frames of the data"


def interval(value: Any, file: File) -> Outcome:
    if file.flag("validation_disable"):
        return Outcome(note=NONE)
    return Outcome({"evaluate.every": whole(value) or None})


def disable(value: Any, file: File) -> Outcome:
    if not flag(value):
        return Outcome(note="validations are made")
    return Outcome({"evaluate.every": None, "evaluate.baseline": False, "evaluate.enabled": False})


def benchmark(value: Any, file: File) -> Outcome:
    """Read ``disable_benchmark``; ``validation_on_startup`` may ask for the same samples."""
    if file.flag("validation_disable"):
        return Outcome(note=NONE)
    return Outcome({"evaluate.baseline": not flag(value) or file.flag("validation_on_startup")})


def on_startup(value: Any, file: File) -> Outcome:
    flag(value)
    return Outcome(note="see disable_benchmark: the teacher is sampled before training")


def validation_steps(value: Any, file: File) -> Outcome:
    if file.distillation.get("dmd_denoising_steps") is None:
        return Outcome({"method.sampling_steps": whole(value)})
    own = len(steps(file.distillation["dmd_denoising_steps"], file).values["method.timesteps"])
    if whole(value) == own:
        return Outcome(note="the student's own steps, by its own sampler")
    return Outcome(note=f"no effect: the student is sampled with its own {own} steps", warn=True)


def guidance(value: Any, file: File) -> Outcome:
    if number(value) not in (0.0, 1.0):
        raise Refused(
            "the student's weights contain its teacher's guidance, so that it is sampled without guidance; set 1.0"
        )
    return Outcome(note="the student is sampled without guidance")


def validation_frames(value: Any, file: File) -> Outcome:
    """Read the frames of a validation; SimpleTuner's example contradicts itself: no Wan makes 16 frames."""
    frames = one_or_more(value)
    below, above = codec_of(file).fitting(frames)
    if frames != above:
        note = f"the model makes {below} or {above} frames: {above} in place of {frames}"
        return Outcome({"evaluate.frames": above}, note, warn=True)
    if frames == file.data.get("data.frames"):
        return Outcome(note="as many as a clip of the data")
    return Outcome({"evaluate.frames": frames})


def validation_resolution(value: Any, file: File) -> Outcome:
    """Read pixels of an edge, WIDTHxHEIGHT, or megapixels of a square; the first where there are several sizes."""
    first, *others = (size.strip() for size in str(value).lower().split(","))
    note = "videos are made in one size, the first" if others else ""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", first)
    if match:
        width, height = int(match[1]), int(match[2] or match[1])
    elif re.fullmatch(r"\d*\.\d+", first):
        width = height = _near(1000 * sqrt(float(first)))
        note = note or f"megapixels of a square, in multiples of 16: {width}x{height}"
    else:
        raise Refused("expected one size, WIDTHxHEIGHT")
    if width % 16 or height % 16 or not width * height:
        raise Refused(f"sizes are multiples of 16; the nearest is {_near(width)}x{_near(height)}")
    # Where clips keep their own aspect ratio, data.width and data.height are the size of samples alone.
    section = "data" if file.data.get("data.resolution_type") == "pixel_area" else "evaluate"
    return Outcome({f"{section}.width": width, f"{section}.height": height}, note, warn=bool(others))


def _near(pixels: float) -> int:
    return max(16, round(pixels / 16) * 16)


def using_datasets(value: Any, file: File) -> Outcome:
    if flag(value) and not from_picture(file):
        return Outcome(note="no effect: a student from text is shown text alone", warn=True)
    return Outcome(note=OF_DATA if flag(value) else "")


def validation_prompt(value: Any, file: File) -> Outcome:
    if file.settings.keys() & LIBRARIES:
        return Outcome(note="see validation_prompt_library and user_prompt_library")
    return prompt_library(None, file)


def prompt_library(value: Any, file: File) -> Outcome:
    if file.overrides("evaluate.prompts"):
        return Outcome(note="evaluate.prompts is set elsewhere")
    texts, more = prompts(file)
    if not texts:
        return Outcome(note="validations show captions of the data")
    if from_picture(file):
        return Outcome(note=f"no effect: a prompt has no picture, and {OF_DATA}", warn=True)
    note = f"no effect: {', '.join(more)} beside a prompt; every prompt has the seeds of evaluate.seeds" if more else ""
    return Outcome({"evaluate.prompts": texts, "evaluate.pictures": len(texts)}, note, warn=bool(more))


def seeds(value: Any, file: File) -> Outcome:
    return Outcome({"evaluate.tune_seed": whole(value), "evaluate.seeds": [whole(value)]})
