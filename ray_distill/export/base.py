"""Check, before a run and at the export, the parts of a pipeline's folder that an export's sample.py loads."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ray_distill.errors import ConfigError
from ray_distill.models.outlines import Shapes, remembered
from ray_distill.models.pipeline import INDEX, Pipeline


def check_index(where: str, index: Mapping[str, Any], experts: bool = False) -> None:
    """ConfigError, which begins with ``where``, for the model_index.json of a Wan 2.2 pipeline with two transformers,
    unless the student has two ``experts``."""
    if class_of(index, "transformer_2") and not experts:
        raise ConfigError(
            f"{where}: a Wan 2.2 pipeline of two experts ({INDEX} has transformer_2) cannot carry one "
            "student; give a folder of Wan 2.1 or of Wan 2.2 5B, or, for this one, method.name=dmd_phased"
        )


def class_of(parts: Mapping[str, Any], name: str) -> str | None:
    """The class name of a part; None where the pipeline has no such part."""
    entry = parts.get(name)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else None


def check_base(pipeline: Pipeline, experts: bool = False) -> None:
    """ConfigError where diffusers cannot load the parts of ``pipeline`` that an export uses, of two ``experts`` or of
    one student."""
    check_index(pipeline.where, pipeline.index, experts)
    fields, family = pipeline.fields(1), pipeline.family
    parts, export = pipeline.index, pipeline.of.leaves(fields)
    kind = parts.get("_class_name")  # another tool's class, which diffusers lacks, is accepted
    if kind not in export.bases and _has("diffusers", str(kind)):
        raise ConfigError(
            f"{pipeline.where}: {INDEX} describes a {kind}, and an export of family {family!r} is a {export.pipeline}; "
            f"give a {export.task} folder"
        )
    classes = {**pipeline.of.parts, "transformer": pipeline.of.transformer_name}
    vae = pipeline.vae.get("_class_name")
    image_parts, own_codec = pipeline.of.image_parts(fields), vae != classes["vae"]
    if own_codec:  # the export samples without a VAE, from the latents of its picture
        if rest := [name for name in image_parts if name != "vae"]:
            raise ConfigError(
                f"{pipeline.where}: its vae is a {vae}, so that the export takes latents in place of a picture, "
                f"and its {rest[0]} needs the picture; give a folder with a {classes['vae']}, or one without {rest[0]}"
            )
        del classes["vae"]
        if (named := class_of(parts, "vae")) is not None:
            raise ConfigError(
                f"{pipeline.where}: {INDEX} names a vae {named}, and vae/config.json a {vae}; correct one of them"
            )
    for name, kind in classes.items():
        if (named := class_of(parts, name)) != kind:
            raise ConfigError(
                f"{pipeline.where}: {INDEX} names {name} {named}, and an export of family {family!r} loads {kind}; "
                "correct it, or copy it again"
            )
    for name in () if own_codec else image_parts:
        if class_of(parts, name) is None:
            raise ConfigError(
                f"{pipeline.where}: {INDEX} names no {name}, and a student from images needs it; copy it again"
            )
    named = class_of(parts, "tokenizer")
    if named is None or not _has("transformers", named):
        raise ConfigError(f"{pipeline.where}: {INDEX} names tokenizer {named}, which transformers does not have")


def _has(library: str, name: str) -> bool:
    def look() -> Shapes:
        return {"has": (int(hasattr(import_module(library), name)),)}

    # Both libraries take seconds to import.
    return remembered(f"{library}:{name}", {"asked": "has"}, look)["has"] == (1,)
