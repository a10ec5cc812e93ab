"""Lines of the look at a machine, and the needs of a run that decide which absences count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ray_distill.columns import columns

State = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Line:
    """One thing of the machine. ``missing`` is needed and absent; ``note`` is absent, and nothing needs it, or was not
    looked at."""

    state: State
    name: str
    text: str
    remedy: str = ""
    """How to get it; empty where it is ok."""


@dataclass(frozen=True)
class Needs:
    """Needs of a run on this machine; the defaults are those of no run in particular."""

    gpus: int = 0
    folders: Mapping[str, Path] = field(default_factory=lambda: {"output": Path("output"), "cache": Path("cache")})
    """Folders that a run fills, by their keys."""
    bytes: Mapping[str, int] = field(default_factory=dict)
    """Bytes that a run puts into a folder, by the same keys, as far as they are known before it."""
    token: bool = False
    """Whether the run publishes to the hub."""
    uri: str = ""
    """MLflow's place; empty where nothing is tracked."""


def absent(needed: bool, name: str, text: str, remedy: str) -> Line:
    return Line("missing" if needed else "note", name, text, remedy)


def text_of(lines: Iterable[Line]) -> str:
    """Columns of state, name and text; a remedy follows on its own line."""
    rows: list[tuple[str, str, str]] = []
    for line in lines:
        rows.append((line.state, line.name, line.text))
        if line.remedy:
            rows.append(("", "", f"-> {line.remedy}"))
    return columns(rows)
