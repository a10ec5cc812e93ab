"""Rules for SimpleTuner's keys on the source of weights."""

from __future__ import annotations

from typing import Any

from ray_distill.models import FAMILIES
from ray_distill.models.pipeline import Pipeline
from ray_distill.simpletuner.files import model_folder
from ray_distill.simpletuner.outcome import File, Outcome
from ray_distill.simpletuner.values import Refused, one_of, text

PATH = "pretrained_model_name_or_path"
FLAVOURS = {
    "t2v-480p-1.3b-2.1": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "t2v-480p-14b-2.1": "Wan-AI/Wan2.1-T2V-14B-Diffusers",
    "i2v-14b-2.1": "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
    "i2v-14b-2.1-720p": "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
    "ti2v-5b-2.2": "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
}
DEFAULT = "t2v-480p-1.3b-2.1"
"""SimpleTuner's flavour of a file that names neither a model nor a flavour."""
FROM_IMAGES = {name for flavour, name in FLAVOURS.items() if flavour.startswith("i2v")}
"""Models that need a picture with each prompt."""
EITHER = {FLAVOURS["ti2v-5b-2.2"], "Lightricks/LTX-2"}
"""Models that work with a picture and without."""
_ALONE = "it trains one of two experts, which are distilled together here: method dmd_phased with model.path = {}"
_LAST = "it also takes the last frame of a clip, and pictures here are first frames"
_CONTROL = "it takes control videos, and pictures here are first frames"
OTHERS = {
    "i2v-14b-2.2-high": _ALONE.format("Wan-AI/Wan2.2-I2V-A14B-Diffusers"),
    "i2v-14b-2.2-low": _ALONE.format("Wan-AI/Wan2.2-I2V-A14B-Diffusers"),
    "flf2v-14b-2.1": _LAST,
    "flf2v-14b-2.2-high": _LAST,
    "flf2v-14b-2.2-low": _LAST,
    "vace-1.3b-2.1": _CONTROL,
    "vace-14b-2.1": _CONTROL,
}
"""Flavours that are not supported, and the reason."""


def model_name(file: File) -> str:
    """The pipeline's name in the file: the value of its own key, else the name of the flavour's pipeline."""
    return str(file.settings.get(PATH, FLAVOURS.get(str(file.settings.get("model_flavour", DEFAULT)), "")))


def from_picture(file: File) -> bool:
    """True where each video begins from a picture, as far as the file says it."""
    asked = file.overridden.get("model.from_image", file.data.get("model.from_image"))
    return bool(asked) or beginnings(file) == {True}


def beginnings(file: File) -> set[bool]:
    """Ways in which videos of the model may begin: from a picture (True), from text alone (False), or both. Published
    models are known by their names, others by their folders."""
    name = str(file.overridden.get("model.path", model_name(file)))
    if name in EITHER or name in FROM_IMAGES:
        return {True, False} if name in EITHER else {True}
    try:
        folder = model_folder(name, file)
    except Refused:
        return {False}
    family = str(file.overridden.get("model.family", file.settings.get("model_family", "wan")))
    pipelines = (Pipeline(family, folder, from_image=asked) for asked in (True, False))
    return {bool(p.from_image) for p in pipelines if family in FAMILIES and _takes(p)} or {False}


def _takes(pipeline: Pipeline) -> bool:
    try:
        pipeline.of.fields(pipeline, 1)
    except ValueError:
        return False
    return True


def model_family(value: Any, file: File) -> Outcome:
    return Outcome({"model.family": one_of(value, FAMILIES, "families here")})


def model(value: Any, file: File) -> Outcome:
    if file.overrides("model.path"):
        return Outcome(note="model.path is set elsewhere")
    return Outcome({"model.path": str(model_folder(text(value), file, file.read("revision", text, None)))})


def flavour(value: Any, file: File) -> Outcome:
    if why := OTHERS.get(str(value)):
        raise Refused(f"{why}; flavours that are distilled: {', '.join(FLAVOURS)}")
    name = FLAVOURS[one_of(value, FLAVOURS, "flavours that are distilled")]
    if PATH in file.settings:
        return Outcome(note=f"{PATH} says which weights")
    if file.settings.get("model_family", "wan") != "wan":
        raise Refused(f"flavours are Wan's; give {PATH}")
    return model(name, file)


def revision(value: Any, file: File) -> Outcome:
    text(value)
    return Outcome(note=f"of {PATH} in the hub's cache")


def of_the_model(what: str) -> Any:
    """Rule of a key that names a part of the pipeline: it must name the model itself, since parts come from
    model.path."""

    def rule(value: Any, file: File) -> Outcome:
        if value == model_name(file):
            return Outcome(note=f"{what} of model.path, which are these")
        raise Refused(f"{what} are those of {PATH}; give that name, or remove it")

    return rule


def transformer(value: Any, file: File) -> Outcome:
    """Start all roles from another network than the pipeline's."""
    roles = [role for role in file.networks if not file.overrides(f"roles.{role}.path")]
    if not roles:
        return Outcome(note="roles.*.path is set elsewhere")
    folder = str(model_folder(text(value), file))
    return Outcome({f"roles.{role}.path": folder for role in roles}, "all roles begin from it")
