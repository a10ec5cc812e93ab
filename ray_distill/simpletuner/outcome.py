"""Key, File and Outcome: what a rule reads, and what it returns."""

from __future__ import annotations

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
    """The keys that it sets, with their values, and what there is to say; ``warn`` where a user should read it."""

    values: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    warn: bool = False


@dataclass(frozen=True)
class File:
    """A configuration as it was read, without comments and keys that are not set. ``overridden`` are the keys that
    environment and command line set."""

    path: Path
    settings: Mapping[str, Any]
    distillation: Mapping[str, Any]
    method: str
    overridden: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    """The keys of data that the dataset file sets."""
    samples: int = 0
    """Of an epoch, where they had to be counted."""

    def overrides(self, key: str) -> bool:
        """True where ``key``, a section above it or a key below it is set elsewhere."""
        return any(f"{key}.".startswith(f"{o}.") or o.startswith(f"{key}.") for o in self.overridden)

    def flag(self, key: str) -> bool:
        """Another key of the file, false where it is not set."""
        return bool(self.read(key, flag, False))

    def read(self, key: str, kind: Callable[[Any], Any], default: Any) -> Any:
        """Another key of the file, as ``kind`` reads it; ``default`` where it is not set."""
        return _read(self.settings, key, kind, default)

    def of_method(self, key: str, kind: Callable[[Any], Any], default: Any) -> Any:
        """The same of a key of ``distillation_config``."""
        return _read(self.distillation, key, kind, default)

    @property
    def roles(self) -> Mapping[Role, Any]:
        return METHODS[self.method]().roles

    @property
    def heads(self) -> list[Role]:
        """Roles that are small heads on another's features."""
        return list(METHODS[self.method]().heads)

    @property
    def trained(self) -> list[Role]:
        """Networks that are trained."""
        return [role for role, need in self.roles.items() if need == "trained" and role not in self.heads]

    @property
    def networks(self) -> list[Role]:
        """Networks with weights of their own: an average has none."""
        return [role for role, need in self.roles.items() if isinstance(need, str) and role not in self.heads]

    @property
    def name(self) -> str:
        """The run's name: tracker_run_name, else that of its folder."""
        folder = Path(str(self.settings.get("output_dir") or self.path.parent.absolute())).name
        return str(self.overridden.get("name", as_name(str(self.settings.get("tracker_run_name") or folder))))

    @property
    def output_dir(self) -> Path:
        return Path(str(self.overridden.get("output_dir", self.settings.get("output_dir", "output"))))

    @property
    def workers(self) -> int:
        return whole(self.overridden.get("train.workers", self.read("num_processes", whole, 1)))

    @property
    def frames(self) -> int | None:
        """Frames of a clip, as far as they are known."""
        frames = self.overridden.get("data.frames", self.data.get("data.frames"))
        return frames if isinstance(frames, int) else None

    def locate(self, name: Any) -> Path:
        """A file that the configuration names: from the working directory, else from beside the configuration."""
        path = Path(str(name)).expanduser()
        for folder in (Path.cwd(), self.path.parent):
            if (folder / path).exists():
                return (folder / path).absolute()
        beside = self.path.parent.absolute()
        where = str(Path.cwd()) if beside == Path.cwd() else f"{Path.cwd()} nor in {beside}"
        raise Refused(f"no such file in {where}")


def _read(settings: Mapping[str, Any], key: str, kind: Callable[[Any], Any], default: Any) -> Any:
    try:
        return kind(settings[key]) if key in settings else default
    except Refused as error:
        raise Refused(f"{key} = {settings[key]!r}: {error}") from None


Rule = Callable[[Any, File], Outcome]


@dataclass(frozen=True)
class Key:
    """``here`` is what the documentation says of it. ``default`` is SimpleTuner's, where that decides something.
    ``null``: null says something of its own, and does not stand for an absent key."""

    rule: Rule
    here: str
    default: Any = ABSENT
    null: bool = False


def looked_up(table: Mapping[str, K], key: str) -> K | None:
    """The entry of a key: its own, or that of a name in the table that ends in * and stands for all that begin so."""
    if key in table or key.endswith("*"):
        return table.get(key)
    return next((entry for name, entry in table.items() if name[-1:] == "*" and key.startswith(name[:-1])), None)


def as_name(text: str) -> str:
    """``text`` in the letters that a run's name has."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-")
