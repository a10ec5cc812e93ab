"""Fill SimpleTuner's placeholders: {model_family} and other keys, {env:NAME}."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ray_distill.simpletuner.values import Refused

PROMPTS = ("validation_prompt", "validation_negative_prompt", "instance_prompt")
"""Keys whose braces belong to the prompt, and are no placeholders."""


def fill(settings: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Replace placeholders in the texts of ``settings`` by values of ``keys`` and environment variables; other braces
    stay.

    Refused where a variable is not set, since the path would be wrong without it.
    """
    return {name: value if name in PROMPTS else _in(value, keys) for name, value in settings.items()}


def _in(value: Any, keys: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return fill(value, keys)
    if isinstance(value, list):
        return [_in(each, keys) for each in value]
    return re.sub(r"\{([^{}]+)\}", lambda match: _word(match, keys), value) if isinstance(value, str) else value


def _word(match: re.Match[str], keys: Mapping[str, Any]) -> str:
    name = match[1]
    if name.startswith("env:"):
        if name[4:] not in os.environ:
            raise Refused(f"{match[0]}: this environment variable is not set; set it")
        return os.environ[name[4:]]
    value = keys.get(name)
    return str(value) if isinstance(value, str | int | float) else match[0]
