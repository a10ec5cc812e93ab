"""Verify a checkpoint against its manifest, then read its tensors."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ray_distill.checkpoint.layout import MANIFEST, STATE, TENSORS, fingerprint, folders, step_of
from ray_distill.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


class BadCheckpoint(ConfigError):
    """A checkpoint that is unfinished or damaged; the message names folder, file and fault."""


@dataclass(frozen=True)
class Checkpoint:
    folder: Path

    @cached_property
    def state(self) -> dict[str, Any]:
        return self._json(STATE)

    @property
    def step(self) -> int:
        return int(self.state["step"])

    def verify(self, thorough: bool = True) -> None:
        """BadCheckpoint unless every file of the manifest is there with its size, and the state is this folder's.

        ``thorough`` reads all bytes, too: their hashes, and that files of tensors are such.
        """
        manifest = self._manifest
        for name, wanted in manifest.items():
            found = self._look(name, wanted, thorough)
            for fault, differs in (("size", "size"), ("content (its hash)", "sha256")):
                if found[differs] != wanted[differs]:
                    raise self._bad(name, f"{fault} is not as it was written")
        step = self.state.get("step")
        if not isinstance(step, int) or step_of(self.folder) not in (None, step):
            raise self._bad(STATE, f"it is of step {step}, and the folder is not")

    def _look(self, name: str, wanted: Mapping[str, Any], thorough: bool) -> Mapping[str, Any]:
        """Size and hash of a file; the hash as it is ``wanted`` unless ``thorough``."""
        path = self._file(name)
        try:
            if not thorough:
                return {**wanted, "size": path.stat().st_size}
            found = fingerprint(path)
            if name.endswith(TENSORS) and found["sha256"] == wanted["sha256"]:
                with safe_open(path, "np") as file:
                    file.keys()
            return found
        except (OSError, SafetensorError) as error:
            raise self._bad(name, str(error)) from error

    @cached_property
    def _manifest(self) -> dict[str, dict[str, Any]]:
        manifest = self._json(MANIFEST)
        if STATE not in manifest:
            raise self._bad(MANIFEST, f"it names no {STATE}")
        for name, wanted in manifest.items():
            if Path(name).name != name or not (name == STATE or name.endswith(TENSORS)):
                raise self._bad(name, "no file of a checkpoint has such a name")
            if not isinstance(wanted, dict) or not {"size", "sha256"} <= wanted.keys():
                raise self._bad(MANIFEST, f"it tells no size and hash of {name}")
        return manifest

    def _json(self, name: str) -> dict[str, Any]:
        path = self._file(name)
        try:
            read = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise self._bad(name, str(error)) from error
        if not isinstance(read, dict):
            raise self._bad(name, f"it holds a {type(read).__name__}, not a mapping")
        return read

    def _file(self, name: str) -> Path:
        """A plain file of the folder: links, which may lead out of it, devices and folders are not ours."""
        path = self.folder / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise self._bad(name, "it is no plain file")
        if not path.exists():
            raise self._bad(name, "it is missing")
        return path

    def _bad(self, name: str, fault: str) -> BadCheckpoint:
        return BadCheckpoint(f"{self.folder}: unfinished or damaged: {name}: {fault}")

    @cached_property
    def _index(self) -> dict[tuple[str, str], Path]:
        found: dict[tuple[str, str], Path] = {}
        # By the manifest: an attempt that died here, in another world, may have left files that nobody vouches for.
        for name in sorted(name for name in self._manifest if name.endswith(TENSORS)):
            path, role = self._file(name), name.rsplit("-", 2)[0]
            try:
                with safe_open(path, "pt") as file:
                    found |= {(role, name): path for name in file.keys()}  # noqa: SIM118 (not a mapping)
            except SafetensorError as error:
                raise self._bad(name, str(error)) from error
        return found

    def names(self, role: str, kind: str) -> list[str]:
        """Parameter names of which ``kind`` ("weights", "exp_avg", "exp_avg_sq", "ema") is stored."""
        return [name.removeprefix(f"{kind}/") for r, name in self._index if r == role and name.startswith(f"{kind}/")]

    def shapes(self, role: str, kind: str) -> dict[str, tuple[int, ...]]:
        """Shapes by parameter name, without reading a tensor."""
        found = {}
        for name in self.names(role, kind):
            with safe_open(self._index[role, f"{kind}/{name}"], "np") as file:
                found[name] = tuple(file.get_slice(f"{kind}/{name}").get_shape())
        return found

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


@lru_cache(maxsize=64)
def _intact(folder: Path, _written_ns: int) -> bool:
    try:
        Checkpoint(folder).verify()
    except BadCheckpoint as error:
        log.warning("checkpoint passed over: %s", error)
        return False
    return True


def is_intact(folder: Path) -> bool:
    """Whether every byte of a checkpoint is as it was written, as this process has found once; a warning names what is
    not."""
    try:
        written = (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        return False
    return _intact(folder, written)


def latest(
    run_dir: Path,
    thorough: bool = False,
    wanted: Callable[[Checkpoint], bool] = lambda _: True,
    tell: Callable[[str], None] = log.warning,
) -> Checkpoint | None:
    """The newest checkpoint of a run that is whole and ``wanted``; of damaged ones ``tell`` gets the name and fault.

    ``thorough`` reads every byte, which a checkpoint deserves before a run goes on from it.
    """
    for folder in reversed(folders(run_dir)):
        checkpoint = Checkpoint(folder)
        try:
            checkpoint.verify(thorough)
        except BadCheckpoint as error:
            tell(f"checkpoint passed over: {error}")
            continue
        if wanted(checkpoint):
            return checkpoint
    return None
