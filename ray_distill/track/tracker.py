"""One MLflow run, opened and closed by the driver; a dead server costs a warning and never the run.

All traffic goes through one thread of our own and MLflow's synchronous calls. MLflow's asynchronous logging would drop
the batches of an outage, print each failure with the URI's password, and wait without a deadline at the end.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as WaitTimeout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ray_distill.config.sections import absolute_uri
from ray_distill.track import store
from ray_distill.track.client import Status, key, mask, one_line, quiet_client

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
T = TypeVar("T")

COOL_DOWN_S = 30.0  # after a failure the server is left alone for this long
START_WAIT_S = 30.0  # the driver waits this long for a run id, then goes on; the run may still open later
END_WAIT_S = 20.0
BUFFERED_METRICS = 20_000  # values kept through an outage; the oldest go first
METRICS_BATCH = 1000  # MLflow refuses more


class Tracker:
    """One MLflow run: ``start`` in the driver, then what is to be seen of it, and ``end``.

    No method raises or long delays for the server's sake: the first failure is warned about, the server is then tried
    again at most every ``COOL_DOWN_S``, and metrics wait in a buffer meanwhile. Artifacts of an outage are not sent:
    they lie in the run's folder. Without a URI every method does nothing. ``artifact`` and ``register`` wait for their
    upload, the others return at once.
    """

    def __init__(self, uri: str | None, run_id: str | None = None) -> None:
        self.uri = absolute_uri(uri or "")
        self.run_id = run_id
        self._client: MlflowClient | None = None
        self._open: Callable[[], None] | None = None  # what still has to happen before the first call
        self._began = 0  # when the run was opened, ms since the epoch
        self._ended = not self.uri
        self._warned = False
        self._retry_at = 0.0
        self._buffer: deque[tuple[str, float, int, int | None]] = deque(maxlen=BUFFERED_METRICS)
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
        """Open a run, below ``parent_run_id`` where one is given, or continue ``run_id``.

        ``params`` is flat; values beyond MLflow's 6000 characters are cut. ``run_id`` of the result is None while the
        server has not answered.
        """
        tracker = cls(uri, run_id)
        parent = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}

        def open_run() -> None:
            client = tracker._connect()
            run = store.open_run(client, tracker.uri, experiment, run_name, params, {**tags, **parent}, tracker.run_id)
            tracker.run_id, tracker._began = run.info.run_id, run.info.start_time

        tracker._open = open_run
        tracker._call(lambda: None, wait_s=START_WAIT_S)
        return tracker

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log ``values`` at ``step``."""
        self._keep(step, values)

    def system(self, values: Mapping[str, float]) -> None:
        """Log what MLflow shows as system metrics; their step is the age of the run in seconds."""
        self._keep(None, {f"system/{name}": value for name, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        self._send(lambda: store.set_tags(self._connect(), self._run, values))

    def note(self, markdown: str) -> None:
        """What MLflow shows as the run's description."""
        self.tags({"mlflow.note.content": markdown})

    def dataset(self, name: str, source: str | Path, digest: str, card: Mapping[str, Any]) -> None:
        """Log the data that the run is trained on: its manifest, a digest of at most 36 characters and its counts."""
        self._send(lambda: store.log_dataset(self._connect(), self._run, name, source, digest, card))

    def videos(self, folder: Path, step: int) -> None:
        """Upload ``folder`` as ``videos/step_000175``, where MLflow plays its MP4s."""
        self._send(lambda: store.upload(self._connect(), self._run, Path(folder), f"videos/step_{step:06d}"))

    def picture(self, path: Path, step: int) -> None:
        """Log an image file; those of equal names are one series over steps."""
        self._send(lambda: store.log_picture(self._connect(), self._run, Path(path), step))

    def artifact(self, path: Path, folder: str = "") -> None:
        """Upload a file, or a directory's content, under ``folder`` of the run's artifacts."""
        self._call(lambda: store.upload(self._connect(), self._run, Path(path), folder))

    def register(self, folder: Path, name: str, alias: str | None = None) -> str | None:
        """Upload ``folder`` as the run's artifact ``student`` and register it: the version, or None where that failed.

        The version's source is the artifact folder itself, found again by ``models:/name/version`` or
        ``models:/name@alias``; nothing is pickled.
        """
        return self._call(lambda: store.register(self._connect(), self._run, Path(folder), name, alias))

    def end(self, status: Status) -> None:
        """Send what is buffered and close the run, within ``END_WAIT_S``. Later calls do nothing."""
        if self._ended:
            return
        self._ended = True
        closing = self._pool.submit(self._close, status)
        self._pool.shutdown(wait=False)
        self._await(closing, END_WAIT_S)

    # What follows runs in the tracker's thread, so that its state needs no lock.

    def _flush(self) -> None:
        from mlflow.entities import Metric

        while self._buffer:
            rows = [self._buffer[i] for i in range(min(METRICS_BATCH, len(self._buffer)))]
            metrics = [
                Metric(name, value, at, (at - self._began) // 1000 if step is None else step)
                for name, value, at, step in rows
            ]
            self._connect().log_batch(self._run, metrics=metrics)
            for _ in rows:  # only what the server took leaves the buffer
                self._buffer.popleft()

    def _close(self, status: Status) -> None:
        self._retry_at = 0.0  # one last attempt, however recent the last failure
        self._guard(self._flush)
        self._guard(lambda: self._connect().set_terminated(self._run, status))

    @property
    def _run(self) -> str:
        assert self.run_id is not None, "_guard opens the run before it calls"
        return self.run_id

    def _connect(self) -> MlflowClient:
        if self._client is None:
            self._client = quiet_client(self.uri)
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
            self._warn(one_line(error))
            return None

    # The ways into that thread.

    def _keep(self, step: int | None, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        rows = [(key(name), float(value), now, step) for name, value in values.items()]

        def send() -> None:
            self._buffer.extend(rows)
            self._guard(self._flush)

        if not self._ended:
            self._pool.submit(send)

    def _send(self, call: Callable[[], None]) -> None:
        """Guard ``call`` in the tracker's thread, and wait for nothing."""
        if not self._ended:
            self._pool.submit(self._guard, call)

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
                cause,
                COOL_DOWN_S,
            )
