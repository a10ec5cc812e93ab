"""Send entries of an outbox as MLflow calls that may be repeated without harm."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_distill.jsonl import read_document, write_document
from ray_distill.secrets import mask
from ray_distill.track import store
from ray_distill.track.client import quiet_client
from ray_distill.track.outbox import Entry

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
RUN = "run.json"
"""File in a run's folder with its id at MLflow, the server's URI, and its page behind that of MLflow's own."""
METRICS_BATCH = 1000  # MLflow refuses more
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS")
"""MLflow's codes for a call that it will never take. They exclude BAD_REQUEST, which any 400 of a proxy and a damaged
database give, and RESOURCE_DOES_NOT_EXIST, which another server gives while ours is down."""


class Sender:
    """The client of one run, opened when the first entry is sent."""

    def __init__(self, uri: str, folder: Path | None, run_id: str | None) -> None:
        self.uri, self._path = uri, folder / RUN if folder else None
        record = read_document(self._path, "run_id") if self._path else {}
        self.run_id: str | None = record.get("run_id") or run_id
        self._remembered = record
        self.opened = False
        """Whether MLflow knows the run, by this process's requests so far."""
        self._page = ""
        self._client: MlflowClient | None = None
        self._born = int(time.time() * 1000)
        self._asked: set[str] = set()  # runs whose creation was requested, answered or not
        self._began: int | None = None  # when the run was opened, ms since the epoch

    def most(self, entry: Entry) -> int:
        """Number of such entries for one call, at least one value per metric."""
        return max(1, METRICS_BATCH // max(1, len(entry["values"]))) if entry["call"] == "metrics" else 1

    def send(self, entries: Sequence[Entry]) -> Any:
        """Send the entries as one call; raises the errors of MLflow and its network."""
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
                fields = (entry[name] for name in ("name", "source", "digest", "card"))
                store.log_dataset(client, self._run, *fields)
            case "artifact":
                store.upload(client, self._run, _there(entry), entry["folder"])
            case "picture":
                store.log_picture(client, self._run, _there(entry), entry["step"], entry["at"])
            case "register":
                name, alias, description = entry["name"], entry["alias"], entry.get("description", "")
                return store.register(client, self._run, _there(entry), name, alias, entry["id"], description)
            case "end":
                client.set_terminated(self._run, entry["status"], entry["at"])
        return None

    def _open(self, client: MlflowClient, entry: Entry) -> None:
        """Continue the run, or create it: one run, however often the first call fails."""
        own, sent_as = entry["opening"], entry.get("id", "")
        run = store.resume(client, self.run_id) if self.run_id else None
        if run is None:
            experiment = store.experiment(client, self.uri, entry["experiment"])
            if entry["at"] < self._born or sent_as in self._asked:
                run = store.opened_before(client, experiment, sent_as)
            self._asked.add(sent_as)
            run = run or store.make_run(client, experiment, own["name"], sent_as, entry["at"])
            if self.run_id:
                log.warning("MLflow at %s does not know run %s; a new run is opened.", mask(self.uri), self.run_id)
        self.run_id, self._began = run.info.run_id, run.info.start_time
        self._page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        self._remember()
        self.opened = True  # its waiting process may be killed then, and resumes with this run
        store.describe(client, run, own["params"])
        store.set_tags(client, self._run, own["tags"])

    def _remember(self) -> None:
        record = {"run_id": self.run_id, "uri": mask(self.uri), "page": self._page}
        if self._path is None or record == self._remembered:
            return
        self._remembered = record
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_document(self._path, record)
        except OSError as error:
            log.warning("%s cannot be written (%s): if this run is resumed, MLflow will show another run", RUN, error)

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
    """True if this entry can never be sent, through no fault of the server. Opening a run never counts, since all other
    entries depend on it."""
    if entry["call"] == "open":
        return False
    gone = "path" in entry and not Path(entry["path"]).exists()
    return gone or store.is_final(error, REFUSALS)


def is_too_large(error: Exception) -> bool:
    """True if a server, or a proxy before it, refuses the size of a request (HTTP 413)."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status == 413 or "error code 413" in str(error)


def _there(entry: Entry) -> Path:
    path = Path(entry["path"])
    if not path.exists():
        raise FileNotFoundError(f"{path} is gone")
    return path
