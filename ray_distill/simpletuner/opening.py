"""Open a SimpleTuner configuration: find its method and the method's section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray_distill.config.keys import ConfigError, nearest
from ray_distill.methods import METHODS
from ray_distill.plaintext import json_of
from ray_distill.simpletuner.document import configuration, read_json, set_keys
from ray_distill.simpletuner.method import METHOD_NAMES, by_its_name, table_of
from ray_distill.simpletuner.outcome import ABSENT, File
from ray_distill.simpletuner.placeholders import fill
from ray_distill.simpletuner.report import quote
from ray_distill.simpletuner.values import Refused, blank

METHOD, SECTION = "distillation_method", "distillation_config"


def read_keys(path: Path) -> dict[str, Any]:
    """All keys of a configuration, with placeholders filled; ConfigError where the file is no configuration."""
    try:
        settings = configuration(path)
        return fill(settings, settings)
    except Refused as error:
        raise ConfigError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None


def open_file(
    path: Path, settings: Mapping[str, Any], overridden: Mapping[str, Any], mode: str | None = None
) -> tuple[File, dict[str, Any]]:
    """(the file with its method, the keys of its distillation section); ``mode`` replaces DCM's mode in the file."""
    named = str(settings.get(METHOD)).lower()
    if named not in METHOD_NAMES:
        raise ConfigError(f"{path}: {METHOD} = {settings.get(METHOD)!r}: known: {', '.join(METHOD_NAMES)}")
    file = File(path, set_keys(settings), {}, named, overridden)
    try:
        section = by_its_name(_section(settings.get(SECTION), named, file), named)
    except Refused as error:
        raise ConfigError(f"{path}: {SECTION} = {quote(SECTION, settings.get(SECTION))}: {error}") from None
    modes = [name.removeprefix(f"{named}_") for name in METHODS if name.startswith("dcm_") and named == "dcm"]
    section = section | ({"mode": mode} if mode else {})
    mode = section.get("mode", "semantic")
    if modes and mode not in modes:
        raise ConfigError(f"{path}: {SECTION}.mode = {mode!r}: known: {', '.join(modes)}")
    method = overridden.get("method.name", f"{named}_{mode}" if modes else named)
    if method not in METHODS:
        raise ConfigError(f"method.name = {method!r}: {nearest(str(method), METHODS)}")
    table = table_of(method)
    assumed = {key: entry.default for key, entry in table.items() if entry.default is not ABSENT}
    return replace(file, distillation=assumed | set_keys(section), method=method), section


def _section(section: Any, method: str, file: File) -> dict[str, Any]:
    """The distillation section, which is a mapping (flat or by method), JSON text, or the name of a file."""
    if isinstance(section, str) and not blank(section):
        if section.lstrip().startswith("{"):
            try:
                section = json_of(section)
            except ValueError as error:
                raise Refused(str(error)) from None
        else:
            section = read_json(file.locate(section))
    if section is None or section == "":
        return {}
    if not isinstance(section, dict):
        raise Refused("expected a section")
    names = set_keys(section).keys()
    if names and names <= set(METHOD_NAMES):  # the nested spelling, by method
        section = section.get(method) or {}
    return dict(section)
