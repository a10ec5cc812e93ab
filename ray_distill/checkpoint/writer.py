"""Write a checkpoint tensor by tensor, the manifest last; all ranks agree on how the save ended."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ray_distill import durable
from ray_distill.checkpoint.host import Buffers, Copy
from ray_distill.checkpoint.layout import MANIFEST, STATE, file_name, fingerprint

PART_BYTES = 1 << 30
AHEAD = 1  # parts that wait in memory while another part is written
SHARED = "output_dir must be storage that all nodes share"
Gather = Callable[[Any], list[Any]]
BUFFERS = Buffers()
"""Of all saves of this process."""


class SaveFailed(RuntimeError):
    """Error: a checkpoint could not be written, and its folder is removed; the message names path, bytes needed and
    free."""


class Writing:
    """A checkpoint in the making: each rank writes its part into a folder that all ranks see.

    After construction this rank's tensors are copied into memory or onto the disk; ``finish`` completes the checkpoint.
    Both are collectives, and both raise SaveFailed on all ranks if one rank failed.
    """

    def __init__(
        self,
        folder: Path,
        tensors: Iterable[tuple[str, str, Tensor]],
        state: Mapping[str, Any],
        rank: int,
        world: int,
        gather: Gather,
        ahead: int | None = AHEAD,
        own: Iterable[tuple[str, str, Tensor]] = (),
    ) -> None:
        """``tensors`` yields (role, "kind/parameter", whole tensor) in the same order on all ranks, since gathering a
        whole tensor is a collective; one rank writes each tensor. ``own`` are tensors that no other rank has, or pieces
        by their ``piece_name``.
        ``gather`` collects every rank's value on all ranks. At most ``ahead`` parts wait in memory for the disk; None
        sets no limit."""
        self.folder, self.state, self.rank, self.gather = folder, state, rank, gather
        self.bytes = 0  # of all ranks; each is taken to have as many bytes of its own as this one
        self._ahead = ahead
        self._files: dict[str, dict[str, int | str]] = {}
        self._error = ""
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._waiting: list[Future[None]] = []
        self._agree(self._clear() if rank == 0 else "")
        self._keep(tensors, world)
        self._keep(own, 1, alike=world)

    def done(self) -> bool:
        """True once this rank's part is on disk, or has failed."""
        return all(part.done() for part in self._waiting)

    def finish(self) -> None:
        """Wait for the disk; then rank 0 writes state and manifest for all ranks' files."""
        self._pool.shutdown(wait=True)
        own = next((error for part in self._waiting if (error := part.exception())), None)
        every = self.gather((self._error, self._files, repr(own) if own else ""))
        # An error that is not the disk's: all ranks end, or the others would wait for one that is gone.
        for rank, (_, _, fault) in enumerate(every):
            if fault:
                raise RuntimeError(f"{self.folder}: rank {rank} could not write its part: {fault}") from own
        self._settle([error for error, _, _ in every])
        self._agree(self._vouch({k: v for _, files, _ in every for k, v in files.items()}) if self.rank == 0 else "")

    def _keep(self, tensors: Iterable[tuple[str, str, Tensor]], writers: int, alike: int = 1) -> None:
        pending: dict[str, dict[str, Copy]] = {}
        for index, (role, name, tensor) in enumerate(tensors):
            self.bytes += alike * tensor.nbytes
            if writers == 1 or index % writers == self.rank:
                copies = pending.setdefault(role, {})
                # Copied even on the CPU, since training goes on while the disk is busy.
                copies[name] = BUFFERS.copy(tensor)
                if sum(copy.tensor.nbytes for copy in copies.values()) >= PART_BYTES:
                    self._flush(role, pending.pop(role))
        for role, copies in pending.items():
            self._flush(role, copies)

    def _flush(self, role: str, copies: dict[str, Copy]) -> None:
        number = len(self._waiting)
        if self._ahead is not None and number > self._ahead:
            wait([self._waiting[-1 - self._ahead]])
        name = file_name(role, self.rank, number)
        self._waiting.append(self._pool.submit(self._guard, lambda: self._write(name, copies)))

    def _guard(self, write: Callable[[], None]) -> None:
        """Call ``write``, and record its failure for :meth:`finish`: a rank that raised now would leave the others in a
        collective."""
        if self._error:
            return
        try:
            write()
        except (OSError, SafetensorError) as error:
            self._error = self._message(error)

    def _write(self, name: str, copies: dict[str, Copy]) -> None:
        path = self.folder / name
        if not self.folder.is_dir():
            raise FileNotFoundError(f"not seen on {socket.gethostname()}: {SHARED}")
        save_file({name: copy.wait() for name, copy in copies.items()}, path)
        BUFFERS.give_back(copies.values())
        with _where_supported():
            path.chmod(self.folder.stat().st_mode & 0o666)  # safetensors writes files that only their owner can read
        durable.sync(path)  # after a power cut a manifest must not exist without its files
        self._files[name] = fingerprint(path)

    def _clear(self) -> str:
        """Make an empty folder, without files of an attempt that died; returns the error, or ""."""
        try:
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True)
        except OSError as error:
            return self._message(error)
        return ""

    def _vouch(self, files: dict[str, Any]) -> str:
        """Check that rank 0 sees all ranks' ``files``, and write state and manifest; returns the error, or ""."""

        def write() -> None:
            durable.write(self.folder / STATE, json.dumps(self.state, indent=1))
            files[STATE] = fingerprint(self.folder / STATE)
            durable.write(self.folder / MANIFEST, json.dumps(files, indent=1))

        unseen = [name for name, file in files.items() if _size(self.folder / name) != file["size"]]
        if unseen:
            return f"{unseen[0]} is not seen on {socket.gethostname()}: {SHARED}"
        self._guard(write)
        return self._error

    def _agree(self, error: str) -> None:
        """Raise SaveFailed on all ranks if any rank has an ``error``."""
        self._settle(self.gather(error))

    def _settle(self, errors: list[str]) -> None:
        if not any(errors):
            return
        self._pool.shutdown(wait=True)
        if self.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
        which, error = next((rank, error) for rank, error in enumerate(errors) if error)
        room = f"{self.bytes:,} bytes needed" if self.bytes else "nothing was written yet"
        raise SaveFailed(f"{self.folder} was not saved ({room}; rank {which}: {error})")

    def _message(self, error: Exception) -> str:
        """The message of an error, with the free space on the disk before the half-written folder is removed."""
        return f"{type(error).__name__}: {error}; {free(self.folder)}"


def free(folder: Path) -> str:
    """Free bytes on the disk of ``folder``, which need not exist, as a part of a message."""
    there = next((path for path in (folder, *folder.parents) if path.is_dir()), Path("/"))
    try:
        return f"{shutil.disk_usage(there).free:,} bytes free"
    except OSError as error:
        return f"free unknown: {error}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


@contextmanager
def _where_supported() -> Iterator[None]:
    """Ignore in the block the error of a file system without file modes (FAT, SMB); other errors pass through."""
    try:
        yield
    except OSError as error:
        if error.errno not in durable.UNSUPPORTED:
            raise
