"""Verify a checkpoint against its manifest, then read its tensors."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ray_distill.checkpoint.layout import (
    MANIFEST,
    STATE,
    TENSORS,
    fingerprint,
    folders,
    piece_of,
    role_of,
    step_of,
)
from ray_distill.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


class BadCheckpoint(ConfigError):
    """Error: a checkpoint is unfinished or damaged; the message names folder, file and fault."""


@dataclass(frozen=True)
class _Stored:
    """A tensor in a file under ``name``, or a piece of one of ``shape`` that begins with its element ``start``."""

    path: Path
    name: str
    start: int = 0
    shape: tuple[int, ...] | None = None


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
        """Check the files against the manifest; BadCheckpoint unless each exists with its size, and the state's step is
        the folder's.

        ``thorough`` also reads all bytes, checks their hashes, and checks that tensor files are safetensors.
        """
        manifest = self._manifest
        for name, stated in manifest.items():
            measured = self._look(name, stated, thorough)
            for fault, differs in (("size", "size"), ("content (its hash)", "sha256")):
                if measured[differs] != stated[differs]:
                    raise self._bad(name, f"{fault} differs from the manifest")
        step = self.state.get("step")
        if not isinstance(step, int) or step_of(self.folder) not in (None, step):
            raise self._bad(STATE, f"it is the state of step {step}, and the folder has another step")

    def _look(self, name: str, stated: Mapping[str, Any], thorough: bool) -> Mapping[str, Any]:
        """The size and hash of a file; without ``thorough`` the hash is the ``stated`` one, and the file is not
        read."""
        path = self._file(name)
        try:
            if not thorough:
                return {**stated, "size": path.stat().st_size}
            measured = fingerprint(path)
            if name.endswith(TENSORS) and measured["sha256"] == stated["sha256"]:
                with safe_open(path, "np") as file:
                    file.keys()
            return measured
        except (OSError, SafetensorError) as error:
            raise self._bad(name, str(error)) from error

    @cached_property
    def _manifest(self) -> dict[str, dict[str, Any]]:
        manifest = self._json(MANIFEST)
        if STATE not in manifest:
            raise self._bad(MANIFEST, f"it names no {STATE}")
        for name, stated in manifest.items():
            if Path(name).name != name or not (name == STATE or name.endswith(TENSORS)):
                raise self._bad(name, "a checkpoint has no file of such a name")
            if not isinstance(stated, dict) or not {"size", "sha256"} <= stated.keys():
                raise self._bad(MANIFEST, f"it states no size and hash of {name}")
        return manifest

    def _json(self, name: str) -> dict[str, Any]:
        path = self._file(name)
        try:
            document = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise self._bad(name, str(error)) from error
        if not isinstance(document, dict):
            raise self._bad(name, f"it holds a {type(document).__name__}, not a mapping")
        return document

    def _file(self, name: str) -> Path:
        """The path of a plain file in the folder; BadCheckpoint for links, which may lead elsewhere, devices and
        folders."""
        path = self.folder / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise self._bad(name, "it is no plain file")
        if not path.exists():
            raise self._bad(name, "it is missing")
        return path

    def _bad(self, name: str, fault: str) -> BadCheckpoint:
        return BadCheckpoint(f"{self.folder}: unfinished or damaged: {name}: {fault}")

    @cached_property
    def _index(self) -> dict[tuple[str, str], list[_Stored]]:
        index: dict[tuple[str, str], list[_Stored]] = {}
        # Only files in the manifest count: an attempt that died, with another world size, may have left other files
        # here.
        for name in sorted(name for name in self._manifest if name.endswith(TENSORS)):
            path, role = self._file(name), role_of(name)
            try:
                with safe_open(path, "pt") as file:
                    for key in file.keys():  # noqa: SIM118 (not a mapping)
                        whole, start, shape = piece_of(key)
                        index.setdefault((role, whole), []).append(_Stored(path, key, start, shape))
            except (SafetensorError, ValueError) as error:
                raise self._bad(name, str(error)) from error
        for pieces in index.values():
            pieces.sort(key=lambda piece: piece.start)
        return index

    def names(self, role: str, kind: str) -> list[str]:
        """Names of the parameters of ``role`` that have a tensor of ``kind``: "weights", "exp_avg", "exp_avg_sq" or
        "ema"."""
        return [name.removeprefix(f"{kind}/") for r, name in self._index if r == role and name.startswith(f"{kind}/")]

    def shapes(self, role: str, kind: str) -> dict[str, tuple[int, ...]]:
        """The shapes by parameter name, from headers alone."""
        shapes = {}
        for name in self.names(role, kind):
            stored = self._index[role, f"{kind}/{name}"][0]
            with safe_open(stored.path, "np") as file:
                shapes[name] = stored.shape or tuple(file.get_slice(stored.name).get_shape())
        return shapes

    def tensor(self, role: str, kind: str, name: str) -> Tensor:
        """One whole tensor; KeyError names a missing one, BadCheckpoint one that lacks a piece."""
        stored = self._index.get((role, f"{kind}/{name}"))
        if stored is None:
            raise KeyError(f"{self.folder} holds no {kind} of {role}'s {name}: was it written for another model?")
        shape, pieces = stored[0].shape, [self._read(each) for each in stored]
        if shape is None:
            return pieces[0]
        whole, end = pieces[0].new_empty(prod(shape)), 0
        for each, piece in zip(stored, pieces, strict=True):
            if each.start != end or end + len(piece) > len(whole):
                break
            whole[end : end + len(piece)] = piece
            end += len(piece)
        if end != len(whole):
            raise self._bad(stored[0].path.name, f"elements of {kind}/{name} from {end:,} on are not in one file each")
        return whole.view(shape)

    def _read(self, stored: _Stored) -> Tensor:
        tensor: Tensor
        if stored.path in self._opened:
            tensor = self._opened[stored.path].get_tensor(stored.name)
            return tensor
        with safe_open(stored.path, "pt") as file:
            tensor = file.get_tensor(stored.name)
        return tensor

    @cached_property
    def _opened(self) -> dict[Path, Any]:
        return {}

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep the tensors' files open in the block. Otherwise each tensor's reading opens its file, and reads the
        header of all."""
        with ExitStack() as files:
            files.callback(self._opened.clear)
            for path in {stored.path for pieces in self._index.values() for stored in pieces}:
                self._opened[path] = files.enter_context(safe_open(path, "pt"))
            yield

    def tensors(self, role: str, kind: str) -> dict[str, Tensor]:
        return {name: self.tensor(role, kind, name) for name in self.names(role, kind)}


def is_whole(folder: Path) -> bool:
    """True where every file exists with its size: a quick check, also for a folder that a save may still be writing."""
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
    """True where every byte is as it was written; a warning names a damaged file. This process remembers the answer."""
    try:
        time_ns = (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        return False
    return _intact(folder, time_ns)


def latest(
    run_dir: Path,
    thorough: bool = False,
    accepts: Callable[[Checkpoint], bool] = lambda _: True,
    tell: Callable[[str], None] = log.warning,
) -> Checkpoint | None:
    """The newest whole checkpoint of a run that ``accepts`` accepts; ``tell`` gets the names and faults of damaged
    ones.

    ``thorough`` verifies every byte, as a run should before it resumes.
    """
    for folder in reversed(folders(run_dir)):
        checkpoint = Checkpoint(folder)
        try:
            checkpoint.verify(thorough)
        except BadCheckpoint as error:
            tell(f"checkpoint passed over: {error}")
            continue
        if accepts(checkpoint):
            return checkpoint
    return None
