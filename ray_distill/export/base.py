"""What an export's sample.py takes from the pipeline's folder: checked before a run and again at the export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_distill.errors import ConfigError
from ray_distill.models.pipeline import INDEX, Pipeline


def check_index(pipeline: Pipeline) -> None:
    """ConfigError for the model_index.json of a Wan 2.2 that has two transformers, or a timestep for each token, which
    one student cannot take the place of."""
    parts = pipeline.index
    for name in ("transformer_2", "expand_timesteps"):
        if class_of(parts, name) if name == "transformer_2" else parts.get(name):
            raise ConfigError(
                f"{pipeline.where}: Wan 2.2 pipelines ({INDEX} has {name}) cannot carry one student; give a Wan 2.1 "
                "text-to-video folder"
            )


def class_of(parts: Mapping[str, Any], name: str) -> str | None:
    """The class of a part; None where the pipeline goes without it."""
    entry = parts.get(name)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else None


def check_base(pipeline: Pipeline) -> None:
    """ConfigError where diffusers could not load the parts that an export takes from ``pipeline``."""
    import diffusers
    import transformers

    check_index(pipeline)
    parts, export, family = pipeline.index, pipeline.of.export, pipeline.family
    kind = parts.get("_class_name")  # one that diffusers does not have is another tool's name
    if kind not in export.bases and hasattr(diffusers, str(kind)):
        raise ConfigError(
            f"{pipeline.where}: {INDEX} is of a {kind}, and an export of family {family!r} is a {export.pipeline}; "
            "give a text-to-video folder"
        )
    wanted = {**pipeline.of.parts, "transformer": pipeline.of.transformer.__name__}
    vae = pipeline.vae.get("_class_name")
    if vae != wanted["vae"]:  # a codec of ours: the export samples without one
        del wanted["vae"]
        if (named := class_of(parts, "vae")) is not None:
            raise ConfigError(
                f"{pipeline.where}: {INDEX} names a vae {named}, and vae/config.json a {vae}; one is wrong"
            )
    for name, kind in wanted.items():
        if (named := class_of(parts, name)) != kind:
            raise ConfigError(
                f"{pipeline.where}: {INDEX} names {name} {named}, and an export of family {family!r} loads {kind}; "
                "correct it, or copy it again"
            )
    named = class_of(parts, "tokenizer")
    if named is None or not hasattr(transformers, named):
        raise ConfigError(f"{pipeline.where}: {INDEX} names tokenizer {named}, which transformers does not have")
