"""Entries of an outbox as MLflow's calls; each does no harm when it is made twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_distill.config.secrets import mask
from ray_distill.track import store
from ray_distill.track.client import quiet_client
from ray_distill.track.outbox import Entry

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN = "run.json"
"""In a run's folder: its id at MLflow, and where that is."""
METRICS_BATCH = 1000  # MLflow refuses more
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")


class Sender:
    """The client of one run, opened when the first entry is sent."""

    def __init__(self, uri: str, folder: Path | None, run_id: str | None) -> None:
        self.uri, self._path = uri, folder / RUN if folder else None
        known = json.loads(self._path.read_text()) if self._path and self._path.is_file() else {}
        self.run_id: str | None = run_id or known.get("run_id")
        self._client: MlflowClient | None = None
        self._began: int | None = None  # when the run was opened, ms since the epoch

    def most(self, entry: Entry) -> int:
        """How many entries such as this one go together: a metric has at least one value."""
        return max(1, METRICS_BATCH // max(1, len(entry["values"]))) if entry["call"] == "metrics" else 1

    def send(self, entries: Sequence[Entry]) -> Any:
        """Raises what MLflow and its network raise."""
        entry = entries[0]
        client = self._client = self._client or quiet_client(self.uri)
        match entry["call"]:
            case "open":
                self._open(client, entry)
            case "metrics":
                self._metrics(client, entries)
            case "tags":
                store.set_tags(client, self._run, entry["values"])
            case "dataset":
                given = (entry[name] for name in ("name", "source", "digest", "card"))
                store.log_dataset(client, self._run, *given)
            case "artifact":
                store.upload(client, self._run, _there(entry), entry["folder"])
            case "picture":
                store.log_picture(client, self._run, _there(entry), entry["step"], entry["at"])
            case "register":
                return store.register(client, self._run, _there(entry), entry["name"], entry["alias"], entry["id"])
            case "end":
                client.set_terminated(self._run, entry["status"], entry["at"])
        return None

    def _open(self, client: MlflowClient, entry: Entry) -> None:
        own = entry["opening"]
        run = store.open_run(client, self.uri, entry["experiment"], **own, run_id=self.run_id, at=entry["at"])
        self.run_id, self._began = run.info.run_id, run.info.start_time
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps({"run_id": self.run_id, "uri": mask(self.uri)}))

    def _metrics(self, client: MlflowClient, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric

        def step(entry: Entry) -> int:
            return (entry["at"] - self._start(client)) // 1000 if entry["step"] is None else entry["step"]

        metrics = [
            Metric(name, value, entry["at"], step(entry))
            for entry in entries
            for name, value in entry["values"].items()
        ]
        for start in range(0, len(metrics), METRICS_BATCH):
            client.log_batch(self._run, metrics=metrics[start : start + METRICS_BATCH])

    def _start(self, client: MlflowClient) -> int:
        if self._began is None:
            self._began = client.get_run(self._run).info.start_time
        return self._began

    @property
    def _run(self) -> str:
        assert self.run_id is not None, "a session begins with open"
        return self.run_id


def is_refused(entry: Entry, error: Exception) -> bool:
    """Whether it is this entry that cannot be sent, now or later; else it is the server. A run that cannot be opened is
    never left out: all else stands on it."""
    if entry["call"] == "open":
        return False
    return isinstance(error, FileNotFoundError) or getattr(error, "error_code", None) in REFUSALS


def _there(entry: Entry) -> Path:
    path = Path(entry["path"])
    if not path.exists():
        raise FileNotFoundError(f"{path} is gone")
    return path
