"""A clock that tests move by hand, and an MLflow of which each call takes seconds of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class Clock:
    """Main thread and courier take turns: one runs at a time, so that equal calls take equal times."""

    def __init__(self) -> None:
        self.time = 0.0
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._answer_at: float | None = None
        self._asked = self._done = 0

    def courier(self, send: Callable[[], object]) -> SimpleNamespace:
        """In place of ``Courier``."""

        def work() -> None:
            while True:
                self._go.acquire()
                asked = self._asked
                send()
                self._done = asked
                self._back.release()

        threading.Thread(target=work, daemon=True).start()
        return SimpleNamespace(now=lambda: self.time, nudge=self._nudge, wait=self.wait, close=lambda: None)

    def call(self, seconds: float) -> None:
        """In the courier: a server that answers after ``seconds``."""
        self._answer_at = self.time + seconds
        self._back.release()
        self._go.acquire()

    def wait(self, nudge: int, seconds: float, over: Callable[[], bool] = lambda: False) -> bool:
        deadline = self.time + seconds
        while self._done < nudge and not over():
            if not self._step(deadline):
                self.time = deadline
                return False
        return True

    def advance(self, seconds: float) -> None:
        deadline = self.time + seconds
        while self._step(deadline):
            pass
        self.time = deadline

    def _nudge(self) -> int:
        self._asked += 1
        return self._asked

    def _step(self, deadline: float) -> bool:
        """Let the courier go on to its next call, unless there is nothing for it to do before ``deadline``."""
        if self._answer_at is not None:
            if self._answer_at > deadline:
                return False
            self.time, self._answer_at = self._answer_at, None
        elif self._done == self._asked:
            return False
        self._go.release()
        self._back.acquire()
        return True


class SlowMlflow:
    """The client's calls as the tracker makes them; ``calls`` has each with its arguments."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds
        self.calls: list[tuple[str, Any]] = []
        self.runs: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.seconds:
                self.clock.call(self.seconds)
            self.calls.append((name, (args, kwargs)))
            return getattr(self, f"_{name}", lambda *_, **__: None)(*args, **kwargs)

        if name.startswith("_"):
            raise AttributeError(name)
        return call

    def _get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1")

    def _create_run(self, experiment: str, start_time: int, tags: dict[str, str], run_name: str) -> Any:
        info = SimpleNamespace(
            run_id=f"{len(self.runs):032x}",
            experiment_id="1",
            start_time=start_time,
            lifecycle_stage="active",
            artifact_uri="files",
            status="",
        )
        self.runs[info.run_id] = SimpleNamespace(info=info, data=SimpleNamespace(params={}), tags=tags)
        return self.runs[info.run_id]

    def _get_run(self, run_id: str) -> Any:
        return self.runs[run_id]

    def _set_terminated(self, run_id: str, status: str, at: int) -> None:
        self.runs[run_id].info.status = status

    def _search_runs(self, experiments: list[str], text: str, max_results: int) -> list[Any]:
        return [run for run in self.runs.values() if f"'{run.tags['sent_as']}'" in text]

    def _list_artifacts(self, run_id: str, path: str) -> list[Any]:
        return []

    def _search_model_versions(self, text: str) -> list[Any]:
        return []

    def _create_model_version(self, name: str, source: str, run_id: str, tags: dict[str, str]) -> Any:
        return SimpleNamespace(version=1)

    def told(self) -> set[str]:
        """What it knows of a run, whatever was sent twice."""
        found = set()
        for name, (args, kwargs) in self.calls:
            if name == "log_batch":
                # The step of a machine's load is the age of the run, by the real clock.
                found |= {
                    f"{m.key} {'' if m.key.startswith('system/') else m.step} {m.value}"
                    for m in kwargs.get("metrics", ())
                }
                found |= {f"{p.key} {p.value}" for p in [*kwargs.get("params", ()), *kwargs.get("tags", ())]}
            elif name in ("log_artifact", "log_artifacts", "set_terminated"):
                found.add(f"{name} {args[1]}")
            elif name in ("log_image", "create_model_version"):
                found.add(f"{name} {kwargs.get('key')} {kwargs.get('step')}")
        return found
