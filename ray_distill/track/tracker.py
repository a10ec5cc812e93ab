"""One MLflow run, opened and closed by the driver; a dead server costs a warning and never the run.

All traffic goes through one thread of our own and MLflow's synchronous calls. MLflow's asynchronous logging would drop
the batches of an outage, print each failure with the URI's password, and wait without a deadline at the end.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as WaitTimeout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
T = TypeVar("T")
Status = Literal["FINISHED", "FAILED", "KILLED"]

COOL_DOWN_S = 30.0  # after a failure the server is left alone for this long
START_WAIT_S = 30.0  # the driver waits this long for a run id, then goes on; the run may still open later
END_WAIT_S = 20.0
SYSTEM_METRICS_S = 5.0
BUFFERED_METRICS = 20_000  # values kept through an outage; the oldest go first
KEY_LENGTH, PARAM_LENGTH, TAG_LENGTH, BATCH = 250, 6000, 5000, 100  # MLflow refuses more
METRICS_BATCH = 1000

# With MLflow's own defaults a refused connection blocks for four minutes. A user's values win.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the line would show a password in the URI
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def mask(text: str) -> str:
    """``text`` with the password of every URI in it replaced: ``https://user:***@host``."""
    return re.sub(r"(://[^:/@\s]*):[^/\s]*@", r"\1:***@", text)


class Tracker:
    """One MLflow run: ``start`` in the driver, then ``metrics``, ``artifact``, ``register``, and ``end``.

    No method raises or long delays for the server's sake: the first failure is warned about, the server is then tried
    again at most every ``COOL_DOWN_S``, and metrics wait in a buffer meanwhile. Artifacts of an outage are not sent:
    they lie in the run's folder. Without a URI every method does nothing.
    """

    def __init__(self, uri: str | None, run_id: str | None = None) -> None:
        self.uri = _absolute(uri or "")
        self.run_id = run_id
        self._client: MlflowClient | None = None
        self._open: Callable[[], None] | None = None  # what still has to happen before the first call
        self._monitor: Any = None
        self._ended = not self.uri
        self._warned = False
        self._retry_at = 0.0
        self._buffer: deque[tuple[str, float, int, int]] = deque(maxlen=BUFFERED_METRICS)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tracker")  # starts no thread until used

    @classmethod
    def start(
        cls,
        uri: str | None,
        experiment: str,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        run_id: str | None = None,
        parent_run_id: str | None = None,
    ) -> Tracker:
        """Open a run, or continue ``run_id``, and sample the driver's machine every 5 s until ``end``.

        ``params`` is flat; values beyond MLflow's 6000 characters are cut. ``run_id`` of the result is None while the
        server has not answered.
        """
        tracker = cls(uri, run_id)
        if parent_run_id is not None:
            tags = {**tags, "mlflow.parentRunId": parent_run_id}
        tracker._open = lambda: tracker._open_run(experiment, run_name, params, tags)
        tracker._call(lambda: None, wait_s=START_WAIT_S)
        return tracker

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log ``values`` at ``step``; returns at once."""
        now = int(time.time() * 1000)
        rows = [(_key(name), float(value), now, step) for name, value in values.items()]

        def send() -> None:
            self._buffer.extend(rows)
            self._guard(self._flush)

        if not self._ended:
            self._pool.submit(send)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Upload a file, or a directory's content, under ``folder`` of the run's artifacts."""
        self._call(lambda: self._upload(Path(path), folder))

    def register(self, folder: Path, name: str, alias: str | None = None) -> str | None:
        """Upload ``folder`` as the run's artifact ``student`` and register it: the version, or None where that failed.

        The version's source is the artifact folder itself, found again by ``models:/name/version`` or
        ``models:/name@alias``; nothing is pickled.
        """
        return self._call(lambda: self._register(Path(folder), name, alias))

    def end(self, status: Status) -> None:
        """Send what is buffered and close the run, within ``END_WAIT_S``. Later calls do nothing."""
        if self._ended:
            return
        self._ended = True
        closing = self._pool.submit(self._close, status)
        self._pool.shutdown(wait=False)
        self._await(closing, END_WAIT_S)

    # What follows runs in the tracker's thread, so that its state needs no lock.

    def _open_run(self, experiment: str, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        client = self._connect()
        experiment_id = self._experiment(client, experiment)
        known = self._resume(client)
        resumed = self.run_id is not None
        if not resumed:
            self.run_id = client.create_run(experiment_id, run_name=run_name).info.run_id
        self._describe(client, known, params, tags)
        self._start_monitor(resumed)

    def _experiment(self, client: MlflowClient, name: str) -> str:
        """The id of the experiment ``name``, which is made where there is none."""
        if found := client.get_experiment_by_name(name):
            return str(found.experiment_id)
        try:
            return client.create_experiment(name, artifact_location=_artifact_root(self.uri))
        except Exception:  # another trial was faster, which the look-up tells from a real failure
            if found := client.get_experiment_by_name(name):
                return str(found.experiment_id)
            raise

    def _resume(self, client: MlflowClient) -> Mapping[str, str]:
        """The parameters that the run to continue has; forgets a ``run_id`` that this server does not know."""
        from mlflow.exceptions import MlflowException

        if self.run_id is None:
            return {}
        try:
            known = client.get_run(self.run_id).data.params
            client.update_run(self.run_id, status="RUNNING")
            return known
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            log.warning("MLflow at %s does not know run %s; a new run is opened.", mask(self.uri), self.run_id)
            self.run_id = None
            return {}

    def _describe(
        self, client: MlflowClient, known: Mapping[str, str], params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Param, RunTag

        wanted = {_key(name): str(value)[:PARAM_LENGTH] for name, value in params.items()}
        changed = sorted(name for name, value in wanted.items() if known.get(name, value) != value)
        if changed:
            log.warning("MLflow keeps the first values of the run's changed parameters: %s", ", ".join(changed))
        new = [Param(name, value) for name, value in wanted.items() if name not in known]
        for start in range(0, len(new), BATCH):
            client.log_batch(self._run, params=new[start : start + BATCH])
        client.log_batch(self._run, tags=[RunTag(_key(name), str(value)[:TAG_LENGTH]) for name, value in tags.items()])

    def _start_monitor(self, resumed: bool) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(
            self.run_id, sampling_interval=SYSTEM_METRICS_S, resume_logging=resumed, tracking_uri=self.uri
        )
        self._monitor.start()

    def _flush(self) -> None:
        from mlflow.entities import Metric

        while self._buffer:
            rows = [self._buffer[i] for i in range(min(METRICS_BATCH, len(self._buffer)))]
            self._connect().log_batch(self._run, metrics=[Metric(*row) for row in rows])
            for _ in rows:  # only what the server took leaves the buffer
                self._buffer.popleft()

    def _upload(self, path: Path, folder: str) -> None:
        client = self._connect()
        (client.log_artifacts if path.is_dir() else client.log_artifact)(self._run, str(path), folder or None)

    def _register(self, folder: Path, name: str, alias: str | None) -> str:
        from mlflow.exceptions import MlflowException

        client = self._connect()
        self._upload(folder, "student")
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(self._run).info.artifact_uri}/student"
        version = str(client.create_model_version(name, source, run_id=self._run).version)
        if alias:
            client.set_registered_model_alias(name, alias, version)
        return version

    def _close(self, status: Status) -> None:
        self._retry_at = 0.0  # one last attempt, however recent the last failure
        self._guard(self._flush)
        if self._monitor is not None:
            self._monitor.finish()
        self._guard(lambda: self._connect().set_terminated(self._run, status))

    # Guards

    @property
    def _run(self) -> str:
        assert self.run_id is not None, "_guard opens the run before it calls"
        return self.run_id

    def _connect(self) -> MlflowClient:
        if self._client is None:
            _make_parent(self.uri)
            self._client = _quiet_client(self.uri)
        return self._client

    def _guard(self, call: Callable[[], T]) -> T | None:
        """``call``'s result, or None where the server failed or is cooling down."""
        if time.monotonic() < self._retry_at:
            return None
        try:
            if self._open is not None:
                self._open()
                self._open = None
            return call()
        except Exception as error:  # whatever a tracker or its network raises, the run is worth more
            self._retry_at = time.monotonic() + COOL_DOWN_S
            self._warn(f"{type(error).__name__}: {error}")
            return None

    def _call(self, call: Callable[[], T], wait_s: float | None = None) -> T | None:
        """Guard ``call`` in the tracker's thread and wait for it; without ``wait_s`` MLflow's HTTP deadlines hold."""
        return None if self._ended else self._await(self._pool.submit(self._guard, call), wait_s)

    def _await(self, future: Any, wait_s: float | None) -> Any:
        try:
            return future.result(timeout=wait_s)
        except WaitTimeout:
            self._warn(f"no answer within {wait_s:.0f} s")
            return None

    def _warn(self, cause: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "MLflow at %s failed (%s). The run goes on and MLflow is tried again every %.0f s without further "
                "warnings; check the tracking URI and its server.",
                mask(self.uri),
                mask(" ".join(cause.split()))[:500],
                COOL_DOWN_S,
            )


def close_run(uri: str, run_id: str, status: Status) -> None:
    """End a run that its own process could not end; one that has ended keeps its status."""
    if not uri:
        return
    try:
        client = _quiet_client(_absolute(uri))
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_terminated(run_id, status)
    except Exception as error:  # whatever a tracker or its network raises, the sweep is worth more
        log.warning("MLflow run %s could not be closed: %s", run_id, mask(str(error)))


def _quiet_client(uri: str) -> MlflowClient:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient  # after the environment, and only where a run is tracked: the import takes seconds

    # Each of these repeats what the tracker warns about once, some with the URI's password.
    for name, level in {
        "mlflow": logging.WARNING,
        "mlflow.system_metrics": logging.CRITICAL,
        "alembic": logging.WARNING,
        "urllib3.connectionpool": logging.ERROR,
    }.items():
        logger = logging.getLogger(name)
        logger.setLevel(max(level, logger.level))
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _key(name: str) -> str:
    """``name`` with what MLflow refuses in keys replaced by ``_``."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:KEY_LENGTH]


def _sqlite_path(uri: str) -> Path | None:
    path = uri.removeprefix("sqlite:///") if uri.startswith("sqlite:///") else ""
    return Path(path).absolute() if path and path != ":memory:" else None


def _absolute(uri: str) -> str:
    path = _sqlite_path(uri)
    return f"sqlite:///{path}" if path else uri


def _make_parent(uri: str) -> None:
    if path := _sqlite_path(uri):
        path.parent.mkdir(parents=True, exist_ok=True)


def _artifact_root(uri: str) -> str | None:
    """Beside a SQLite database, so that nothing lands in the working directory; a server knows its own place."""
    path = _sqlite_path(uri)
    return (path.parent / "mlartifacts").as_uri() if path else None
