"""Reading: a checkpoint is verified against its manifest before a tensor of it is used."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from ray_distill.checkpoint.layout import MANIFEST, PREFIX, STATE, fingerprint

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


class BadCheckpoint(ValueError):
    """A checkpoint that is unfinished or damaged; the message names folder, file and fault."""


@dataclass(frozen=True)
class Checkpoint:
    folder: Path

    @cached_property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.folder / STATE).read_text())
        return state

    @property
    def step(self) -> int:
        return int(self.state["step"])

    def verify(self, thorough: bool = True) -> None:
        """BadCheckpoint unless every file of the manifest is there with its size and, if ``thorough``, its hash."""
        try:
            files = json.loads((self.folder / MANIFEST).read_text())
            for name, wanted in files.items():
                path = self.folder / name
                found = fingerprint(path) if thorough else wanted | {"size": path.stat().st_size}
                if path.parent != self.folder or found != wanted:
                    raise BadCheckpoint(f"{self.folder}: {name} is not as it was written (size or hash differs)")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            if isinstance(error, BadCheckpoint):
                raise
            raise BadCheckpoint(f"{self.folder}: unfinished or damaged ({error})") from error

    @cached_property
    def _index(self) -> dict[tuple[str, str], Path]:
        found: dict[tuple[str, str], Path] = {}
        # By the manifest: an attempt that died here, in another world, may have left files that nobody vouches for.
        names = json.loads((self.folder / MANIFEST).read_text())
        for path in (self.folder / name for name in sorted(names) if name.endswith(".safetensors")):
            role = path.name.rsplit("-", 2)[0]
            with safe_open(path, "pt") as file:
                found |= {(role, name): path for name in file.keys()}  # noqa: SIM118 (not a mapping)
        return found

    def names(self, role: str, kind: str) -> list[str]:
        """Parameter names of which ``kind`` ("weights", "exp_avg", "exp_avg_sq", "ema") is stored."""
        return [name.removeprefix(f"{kind}/") for r, name in self._index if r == role and name.startswith(f"{kind}/")]

    def tensor(self, role: str, kind: str, name: str) -> Tensor:
        """One whole tensor; KeyError names what is missing."""
        path = self._index.get((role, f"{kind}/{name}"))
        if path is None:
            raise KeyError(f"{self.folder} holds no {kind} of {role}'s {name}: was it written for another model?")
        with safe_open(path, "pt") as file:
            tensor: Tensor = file.get_tensor(f"{kind}/{name}")
        return tensor

    def tensors(self, role: str, kind: str) -> dict[str, Tensor]:
        return {name: self.tensor(role, kind, name) for name in self.names(role, kind)}


def is_whole(folder: Path) -> bool:
    """Whether every file is there with its size: a quick look, for a folder that may be in the writing."""
    try:
        Checkpoint(folder).verify(thorough=False)
    except BadCheckpoint:
        return False
    return True


def latest(run_dir: Path, thorough: bool = False) -> Checkpoint | None:
    """The newest checkpoint of a run that is whole; damaged ones are named and passed over.

    ``thorough`` reads every byte, which a checkpoint deserves before a run goes on from it.
    """
    for folder in sorted(run_dir.glob(f"{PREFIX}*"), reverse=True):
        checkpoint = Checkpoint(folder)
        try:
            checkpoint.verify(thorough)
        except BadCheckpoint as error:
            log.warning("checkpoint passed over: %s", error)
            continue
        return checkpoint
    return None
