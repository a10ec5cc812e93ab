"""What an export's sample.py takes from the pipeline's folder: checked before a run and again at the export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray_distill.errors import ConfigError

PARTS = {
    "wan": {"text_encoder": "UMT5EncoderModel", "vae": "AutoencoderKLWan"},
    "ltx": {"text_encoder": "T5EncoderModel", "vae": "AutoencoderKLLTXVideo"},
}
"""Classes that a family's pipeline loads, by its part."""
PIPELINES = {
    "wan": ("WanPipeline", "WanVideoToVideoPipeline"),
    "ltx": ("LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline"),
}
"""Classes of diffusers whose folder a family's text-to-video pipeline loads, too."""
TRANSFORMERS = {"wan": "WanTransformer3DModel", "ltx": "LTXVideoTransformer3DModel"}
INDEX = "model_index.json"


def read_index(base: Path, key: str = "base", experts: bool = False) -> dict[str, Any]:
    """The model_index.json of a folder; ConfigError where there is none, or it is of a Wan 2.2 that has two
    transformers, unless two ``experts`` take their places, or a timestep for each token."""
    path = base / INDEX
    if not path.is_file():
        raise ConfigError(f"{key} = {base}: no {INDEX} there. Give a pipeline folder in diffusers format")
    try:
        parts = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{key} = {base}: {INDEX} is no valid JSON ({error}); copy it again") from None
    if not isinstance(parts, dict):
        raise ConfigError(f"{key} = {base}: {INDEX} holds a {type(parts).__name__}, no mapping; copy it again")
    for name in ("transformer_2", "expand_timesteps"):
        if class_of(parts, name) and not experts if name == "transformer_2" else parts.get(name):
            raise ConfigError(
                f"{key} = {base}: Wan 2.2 pipelines ({INDEX} has {name}) cannot carry one student; give a Wan 2.1 "
                "text-to-video folder, or, for one with transformer_2, method.name=dmd_phased"
            )
    return parts


def class_of(parts: dict[str, Any], name: str) -> str | None:
    """The class of a part; None where the pipeline goes without it."""
    entry = parts.get(name)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else None


def check_base(base: Path, family: str, key: str, experts: bool = False) -> None:
    """ConfigError where diffusers could not load the parts that an export, of two ``experts`` or of one student, takes
    from ``base``."""
    import diffusers
    import transformers

    parts = read_index(base, key, experts)
    kind = parts.get("_class_name")  # one that diffusers does not have is another tool's name
    if kind not in PIPELINES[family] and hasattr(diffusers, str(kind)):
        raise ConfigError(
            f"{key} = {base}: {INDEX} is of a {kind}, and an export of family {family!r} is a {PIPELINES[family][0]}; "
            "give a text-to-video folder"
        )
    wanted = PARTS[family] | {"transformer": TRANSFORMERS[family]}
    vae = json.loads((base / "vae/config.json").read_bytes()).get("_class_name")
    if vae != wanted["vae"]:  # a codec of ours: the export samples without one
        del wanted["vae"]
        if (named := class_of(parts, "vae")) is not None:
            raise ConfigError(f"{key} = {base}: {INDEX} names a vae {named}, and vae/config.json a {vae}; one is wrong")
    for name, kind in wanted.items():
        if (named := class_of(parts, name)) != kind:
            raise ConfigError(
                f"{key} = {base}: {INDEX} names {name} {named}, and an export of family {family!r} loads {kind}; "
                "correct it, or copy it again"
            )
    named = class_of(parts, "tokenizer")
    if named is None or not hasattr(transformers, named):
        raise ConfigError(f"{key} = {base}: {INDEX} names tokenizer {named}, which transformers does not have")
