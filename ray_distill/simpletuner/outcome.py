"""Key and File, which a rule reads, and Outcome, which it returns."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ray_distill.methods import METHODS
from ray_distill.simpletuner.values import Refused, flag, whole
from ray_distill.types import Role

ABSENT = object()
K = TypeVar("K")


@dataclass(frozen=True)
class Outcome:
    """Result of a rule: ``values`` of the keys that it sets, and a ``note`` for the report, which ``warn`` makes a
    warning."""

    values: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    warn: bool = False


@dataclass(frozen=True)
class File:
    """A configuration without comments and unset keys. ``overridden`` are the keys that environment and command line
    set."""

    path: Path
    settings: Mapping[str, Any]
    distillation: Mapping[str, Any]
    method: str
    overridden: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    """Values that the dataset file sets."""
    samples: int = 0
    """Number of samples in an epoch, where the run's length needs it; else 0."""

    def overrides(self, key: str) -> bool:
        """True where environment or command line set ``key``, a section above it, or a key below it."""
        return any(f"{key}.".startswith(f"{o}.") or o.startswith(f"{key}.") for o in self.overridden)

    def flag(self, key: str) -> bool:
        """The value of a flag in the file; False where it is not set."""
        return bool(self.read(key, flag, False))

    def read(self, key: str, kind: Callable[[Any], Any], default: Any) -> Any:
        """The value of a key in the file, as ``kind`` reads it; ``default`` where it is not set."""
        return _read(self.settings, key, kind, default)

    def of_method(self, key: str, kind: Callable[[Any], Any], default: Any) -> Any:
        """The same for a key of ``distillation_config``."""
        return _read(self.distillation, key, kind, default)

    @property
    def roles(self) -> Mapping[Role, Any]:
        return METHODS[self.method]().roles

    @property
    def heads(self) -> list[Role]:
        """Roles that are small heads on another role's features."""
        return list(METHODS[self.method]().heads)

    @property
    def trained(self) -> list[Role]:
        """Roles whose networks are trained."""
        return [role for role, need in self.roles.items() if need == "trained" and role not in self.heads]

    @property
    def networks(self) -> list[Role]:
        """Roles with networks of their own; an average has none."""
        return [role for role, need in self.roles.items() if isinstance(need, str) and role not in self.heads]

    @property
    def name(self) -> str:
        """The run's name: tracker_run_name, else the name of its folder."""
        folder = Path(str(self.settings.get("output_dir") or self.path.parent.absolute())).name
        return str(self.overridden.get("name", as_name(str(self.settings.get("tracker_run_name") or folder))))

    @property
    def output_dir(self) -> Path:
        text = str(self.overridden.get("output_dir", self.settings.get("output_dir", "output")))
        return Path(os.path.expanduser(text))  # unlike Path's own it leaves an unknown user to the schema

    @property
    def workers(self) -> int:
        return whole(self.overridden.get("train.workers", self.read("num_processes", whole, 1)))

    @property
    def frames(self) -> int | None:
        """Number of frames of a clip; None where it is unknown."""
        frames = self.overridden.get("data.frames", self.data.get("data.frames"))
        return frames if isinstance(frames, int) else None

    def locate(self, name: Any) -> Path:
        """The path of a file that the configuration names."""
        return locate(name, self.path)


def locate(name: Any, configuration: Path) -> Path:
    """The path of a file or folder that ``configuration`` names, relative to the working directory, else to the
    configuration; Refused where there is none."""
    path, here, beside = Path(str(name)).expanduser(), Path.cwd(), configuration.parent.absolute()
    for folder in (here, beside):
        if (folder / path).exists():
            return (folder / path).absolute()
    raise Refused(f"no such file in {here if beside == here else f'{here} nor in {beside}'}")


def _read(settings: Mapping[str, Any], key: str, kind: Callable[[Any], Any], default: Any) -> Any:
    try:
        return kind(settings[key]) if key in settings else default
    except Refused as error:
        raise Refused(f"{key} = {settings[key]!r}: {error}") from None


Rule = Callable[[Any, File], Outcome]


@dataclass(frozen=True)
class Key:
    """A key: its ``rule``; ``here``, its text in the documentation; ``default``, SimpleTuner's default where it
    matters. ``null``: null has a meaning of its own, and does not stand for an absent key."""

    rule: Rule
    here: str
    default: Any = ABSENT
    null: bool = False


def look_up(table: Mapping[str, K], key: str) -> K | None:
    """The entry of a key: its own, or that of a name in the table that ends in *, with this beginning."""
    if key in table or key.endswith("*"):
        return table.get(key)
    return next((entry for name, entry in table.items() if name[-1:] == "*" and key.startswith(name[:-1])), None)


def as_name(text: str) -> str:
    """``text`` with "-" in place of characters that a run's name cannot have."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-")
