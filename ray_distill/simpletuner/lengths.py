"""Codec of the file's family, without a folder, for the numbers of frames that it takes."""

from __future__ import annotations

from functools import cache

import torch

from ray_distill.models import FAMILIES, family
from ray_distill.models.codec import Codec
from ray_distill.simpletuner.outcome import File


def codec_of(file: File) -> Codec:
    """The codec, for its ``stride`` and ``fitting`` alone. Another family is refused by its own key."""
    name = str(file.overridden.get("model.family", file.settings.get("model_family")))
    return _outline(name if name in FAMILIES else "wan")


@cache
def _outline(name: str) -> Codec:
    declared = family(name)
    with torch.device("meta"):
        return declared.codec.outline({"_class_name": declared.parts["vae"]})
