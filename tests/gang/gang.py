"""One gang of gloo processes for a whole test session: functions are sent to it, results come back by rank.

A fork server imports torch, DeepSpeed, diffusers and the engines once and every rank is forked from it, so start-up is
paid once for all ranks, and a gang that failed is replaced in a fraction of a second. No Ray, no GPU and no compiler is
touched.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore::FutureWarning",
}
PRELOAD = ["tests.gang.jobs", "pytest"]  # torch, DeepSpeed, diffusers and the engines


@dataclass(frozen=True)
class _Rank:
    process: ForkServerProcess
    pipe: Connection


class RankDied(RuntimeError):
    """A rank's process ended without an answer."""


class Gang:
    """``gang.run(fn, *args, world=2)`` calls ``fn(rank, world, *args)`` on each rank; ``fn`` is a module's function."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gang-")
        self._count = itertools.count()
        self._ranks: list[_Rank] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        # Libraries read these at import; the tests' own process keeps its own.
        with patch.dict(os.environ, ENVIRONMENT):
            forkserver.ensure_running()

    def run(self, fn: Callable[..., Any], *args: Any, world: int = 4, timeout: float = 120.0) -> list[Any]:
        """The results by rank. The first rank to raise raises here; a hang ends at ``timeout`` seconds."""
        store = Path(self._folder.name, f"store-{next(self._count)}")
        job = pickle.dumps((fn, args, world, str(store), timeout))
        try:
            while len(self._ranks) < world:
                self._ranks.append(self._start(len(self._ranks)))
            for rank in self._ranks[:world]:
                rank.pipe.send_bytes(job)
            return self._gather(self._ranks[:world], time.monotonic() + timeout)
        except BaseException:
            self.kill()  # a failed rank leaves its peers inside a collective: nothing here is worth keeping
            raise

    def kill(self) -> None:
        for rank in self._ranks:
            rank.process.kill()
            rank.process.join()
            rank.pipe.close()
        self._ranks = []

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()

    def _start(self, rank: int) -> _Rank:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_rank, args=(rank, theirs, self._stack(rank)), daemon=True)
        process.start()
        theirs.close()
        return _Rank(process, ours)

    def _stack(self, rank: int) -> str:
        return str(Path(self._folder.name, f"stack-{rank}"))

    def _gather(self, ranks: list[_Rank], deadline: float) -> list[Any]:
        results: dict[int, Any] = {}
        while waiting := [rank for rank in range(len(ranks)) if rank not in results]:
            ready = connection.wait([ranks[rank].pipe for rank in waiting], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(self._hang(waiting))
            answers = {rank: _receive(rank, ranks[rank]) for rank in waiting if ranks[rank].pipe in ready}
            # A raising rank keeps its sockets open, so its peers wait; a dead one makes them fail after it.
            if any(isinstance(answer, BaseException) for answer in answers.values()):
                rest = [
                    rank for rank in waiting if rank not in answers
                ]  # one that died is seen after its peers at times
                late = connection.wait([ranks[rank].pipe for rank in rest], 0.5)
                answers |= {rank: _receive(rank, ranks[rank]) for rank in rest if ranks[rank].pipe in late}
            if failures := [answer for answer in answers.values() if isinstance(answer, BaseException)]:
                raise min(failures, key=lambda error: not isinstance(error, RankDied))
            results |= answers
        return [results[rank] for rank in range(len(ranks))]

    def _hang(self, waiting: list[int]) -> str:
        for rank in waiting:
            if (pid := self._ranks[rank].process.pid) is not None:
                os.kill(pid, signal.SIGUSR1)  # faulthandler writes where the rank stands, even inside a collective
        time.sleep(0.5)
        stacks = (f"rank {rank} stands at\n{Path(self._stack(rank)).read_text()}" for rank in waiting)
        return "\n".join([f"the gang still waits for ranks {waiting}", *stacks])


def _rank(rank: int, pipe: Connection, stack: str) -> None:
    from tests.gang.rank import serve  # here, because it imports DeepSpeed, which is not for the tests' own process

    serve(rank, pipe, stack)


def _receive(rank: int, source: _Rank) -> Any:
    try:
        return pickle.loads(source.pipe.recv_bytes())
    except EOFError:
        source.process.join()
        return RankDied(f"rank {rank} died with exit code {source.process.exitcode}")
