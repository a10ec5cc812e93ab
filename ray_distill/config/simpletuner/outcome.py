"""What becomes of a key of SimpleTuner's, and the file in which it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_distill.methods import METHODS
from ray_distill.types import Role

ABSENT = object()


class Refused(ValueError):
    """A value that this tool does not take: why not, and what to do."""


@dataclass(frozen=True)
class Outcome:
    """The keys that it sets, with their values, and what there is to say; ``warn`` where a user should read it."""

    values: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    warn: bool = False


@dataclass(frozen=True)
class File:
    """A configuration as it was read. ``overridden`` are the keys that environment and command line set."""

    path: Path
    given: Mapping[str, Any]
    distillation: Mapping[str, Any]
    method: str
    overridden: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    """The keys of data that the dataset file sets."""
    samples: int = 0
    """Of an epoch, where they had to be counted."""

    def overrides(self, key: str) -> bool:
        """Whether ``key``, a section above it or a key below it is set elsewhere."""
        return any(f"{key}.".startswith(f"{o}.") or o.startswith(f"{key}.") for o in self.overridden)

    def flag(self, key: str) -> bool:
        """Another key of the file, false where it is not set."""
        try:
            return flag(self.given.get(key, False))
        except Refused as error:
            raise Refused(f"{key} = {self.given[key]!r}: {error}") from None

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
    def held(self) -> list[Role]:
        """Networks with weights of their own: an average has none."""
        return [role for role, need in self.roles.items() if isinstance(need, str) and role not in self.heads]

    @property
    def name(self) -> str:
        """Of the run, as tracker_run_name says it, else as its folder is called."""
        folder = Path(str(self.given.get("output_dir") or self.path.parent.absolute())).name
        return str(self.overridden.get("name", as_name(str(self.given.get("tracker_run_name") or folder))))

    @property
    def output_dir(self) -> Path:
        return Path(str(self.overridden.get("output_dir", self.given.get("output_dir", "output"))))

    @property
    def workers(self) -> int:
        return whole(self.overridden.get("train.workers", 1))

    @property
    def frames(self) -> int | None:
        """Frames of a clip, as far as they are known."""
        frames = self.overridden.get("data.frames", self.data.get("data.frames"))
        return frames if isinstance(frames, int) else None

    def locate(self, name: Any) -> Path:
        """A file that the configuration names: from the working directory, else from beside the configuration."""
        for folder in (Path.cwd(), self.path.parent):
            if (folder / str(name)).exists():
                return (folder / str(name)).absolute()
        beside = self.path.parent.absolute()
        where = str(Path.cwd()) if beside == Path.cwd() else f"{Path.cwd()} nor in {beside}"
        raise Refused(f"no such file in {where}")


Rule = Callable[[Any, File], Outcome]


@dataclass(frozen=True)
class Key:
    """``here`` is what the documentation says of it. ``default`` is SimpleTuner's, where that decides something."""

    rule: Rule
    here: str
    default: Any = ABSENT


def number(value: Any) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise Refused("expected a number")


def whole(value: Any) -> int:
    count = number(value)
    if count != int(count):
        raise Refused("expected a whole number")
    return int(count)


def flag(value: Any) -> bool:
    known = {"true": True, "false": False, "1": True, "0": False}
    if str(value).lower() not in known:
        raise Refused("expected true or false")
    return known[str(value).lower()]


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise Refused("expected text")
    return value


def one_of(value: Any, known: Iterable[str], key: str = "") -> str:
    names = list(known)
    if value not in names:
        raise Refused(f"{key or 'known'}: {', '.join(names)}")
    return str(value)


def to(*keys: str, kind: Callable[[Any], Any] = number, note: str = "") -> Rule:
    """The value, as ``kind`` reads it, under each of ``keys``."""
    return lambda value, file: Outcome(dict.fromkeys(keys, kind(value)), note)


def form(key: str) -> Rule:
    return lambda value, file: Outcome({key: one_of(value, ("std", "extra"))})


def nothing(why: str) -> Rule:
    return lambda value, file: Outcome(note=why, warn=True)


def taken(note: str) -> Rule:
    """Accepted; there is nothing to set, since that is how it is."""
    return lambda value, file: Outcome(note=note)


def four_k_plus_one(frames: int) -> int:
    """The next number of frames at or above it that a Wan clip can have."""
    return -(-(max(frames, 1) - 1) // 4) * 4 + 1


def as_name(text: str) -> str:
    """``text`` in the letters that a run's name has."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-")


def is_hub_name(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None
