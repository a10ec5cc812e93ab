"""One MLflow run, opened and closed by the driver; a dead server costs a warning and never the run.

All traffic goes through one thread of our own and MLflow's synchronous calls. MLflow's asynchronous logging would drop
the batches of an outage, print each failure with the URI's password, and wait without a deadline at the end.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as WaitTimeout
from pathlib import Path
from typing import Any

from ray_distill.config.secrets import mask, masked
from ray_distill.config.sections import absolute_uri
from ray_distill.track.client import Status, key, one_line
from ray_distill.track.outbox import Entry, Outbox
from ray_distill.track.sender import Sender, is_refused

log = logging.getLogger(__name__)

COOL_DOWN_S = 30.0  # after a failure the server is left alone for this long
START_WAIT_S = 30.0  # the driver waits this long for a run id, then goes on; the run may still open later
UPLOAD_WAIT_S = 600.0
END_WAIT_S = 20.0


class Tracker:
    """One MLflow run: ``start`` in the driver, then what is to be seen of it, and ``end``.

    Whatever is logged is kept first, in ``track.jsonl`` of the run's folder, and leaves it when MLflow has it: what an
    outage leaves there is sent when the server is back, by the run that goes on, or by ``ray-distill track sync``.
    No method raises or delays a step for the server's sake: the first failure is warned about, and the server is then
    tried again at most every ``COOL_DOWN_S``. Without a URI every method does nothing. ``artifact`` and ``register``
    wait for their upload, at most ``UPLOAD_WAIT_S``, the others return at once.
    """

    def __init__(self, uri: str | None, run_id: str | None = None, folder: Path | None = None) -> None:
        self.uri, self.folder = absolute_uri(uri or ""), folder
        self._sender = Sender(self.uri, folder, run_id)
        self._outbox = Outbox(folder if self.uri else None)
        self._results: dict[str, Any] = {}
        self._ended = not self.uri
        self._warned = False
        self._retry_at = 0.0
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tracker")  # starts no thread until used

    @property
    def left(self) -> int:
        """Calls that MLflow has not got yet."""
        return len(self._outbox)

    @property
    def run_id(self) -> str | None:
        return self._sender.run_id

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
        folder: Path | None = None,
    ) -> Tracker:
        """Open a run, below ``parent_run_id`` where one is given, or continue ``run_id`` or the one of ``folder``.

        ``params`` is flat; values beyond MLflow's 6000 characters are cut. ``run_id`` of the result is None while the
        server has not answered.
        """
        tracker = cls(uri, run_id, folder)
        parent = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
        texts = {name: mask(str(value)) for name, value in params.items()}
        own = {"name": run_name, "params": texts, "tags": {**tags, **parent}}
        # What is left of a session before stays in front: the run that it opened is the one that goes on.
        tracker._post("open", wait_s=START_WAIT_S, uri=mask(tracker.uri), experiment=experiment, opening=own)
        return tracker

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log ``values`` at ``step``."""
        self._post("metrics", step=step, values=_numbers(values))

    def system(self, values: Mapping[str, float]) -> None:
        """Log what MLflow shows as system metrics; their step is the age of the run in seconds."""
        self._post("metrics", True, step=None, values=_numbers({f"system/{k}": value for k, value in values.items()}))

    def tags(self, values: Mapping[str, str]) -> None:
        self._post("tags", values={name: mask(value) for name, value in values.items()})

    def note(self, markdown: str) -> None:
        """What MLflow shows as the run's description."""
        self.tags({"mlflow.note.content": markdown})

    def dataset(self, name: str, source: str | Path, digest: str, card: Mapping[str, Any]) -> None:
        """Log the data that the run is trained on: its manifest, a digest of at most 36 characters and its counts."""
        self._post("dataset", name=name, source=mask(str(source)), digest=digest, card=masked(dict(card)))

    def videos(self, folder: Path, step: int) -> None:
        """Upload ``folder`` as ``videos/step_000175``, where MLflow plays its MP4s."""
        self._post("artifact", path=str(folder), folder=f"videos/step_{step:06d}")

    def picture(self, path: Path, step: int) -> None:
        """Log an image file; those of equal names are one series over steps."""
        self._post("picture", path=str(path), step=step)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Upload a file, or a directory's content, under ``folder`` of the run's artifacts."""
        self._post("artifact", wait_s=UPLOAD_WAIT_S, path=str(path), folder=folder)

    def register(self, folder: Path, name: str, alias: str | None = None) -> str | None:
        """Upload ``folder`` as the run's artifact ``student`` and register it: the version, or None where that failed.

        The version's source is the artifact folder itself, found again by ``models:/name/version`` or
        ``models:/name@alias``; nothing is pickled.
        """
        version: str | None = self._post("register", wait_s=UPLOAD_WAIT_S, path=str(folder), name=name, alias=alias)
        return version

    def end(self, status: Status) -> None:
        """Send what is kept and close the run, within ``END_WAIT_S``. Later calls do nothing."""
        if self._ended:
            return
        self._outbox.add(self._entry("end", status=status))
        self._ended = True
        closing = self._pool.submit(self.send, at_once=True)
        self._pool.shutdown(wait=False)
        self._await(closing, END_WAIT_S)
        if self.left and self.folder:
            log.warning(
                "MLflow misses a part of this run, which is kept. When it is back: ray-distill track sync %s",
                self.folder,
            )

    # What follows runs in the tracker's thread, so that its state needs no lock.

    def send(self, at_once: bool = False) -> bool:
        """Send what is kept, in order; whether nothing is left. ``at_once``: however recent the last failure."""
        if time.monotonic() < self._retry_at and not at_once:
            return False
        while (entry := self._outbox.first()) is not None:
            entries = self._outbox.ahead(self._sender.most(entry))
            try:
                if (result := self._sender.send(entries)) is not None:
                    self._results[entry["id"]] = result
            except Exception as error:  # whatever a tracker or its network raises, the run is worth more
                if not is_refused(entry, error):
                    self._retry_at = time.monotonic() + COOL_DOWN_S
                    self._warn(one_line(error))
                    return False
                log.warning("MLflow does not take %s of this run (%s); it is left out", entry["call"], one_line(error))
            self._outbox.sent(len(entries))
        return True

    def _entry(self, call: str, **values: Any) -> Entry:
        return {"call": call, "id": uuid.uuid4().hex, "at": int(time.time() * 1000), **values}

    def _post(self, call: str, dispensable: bool = False, wait_s: float | None = None, **values: Any) -> Any:
        """Keep a call and have it sent; with ``wait_s`` its result, or None where it was not sent by then."""
        if self._ended:
            return None
        entry = self._entry(call, **values)
        self._outbox.add(entry, dispensable)
        sending = self._pool.submit(self.send)
        if wait_s is None:
            return None
        self._await(sending, wait_s)
        return self._results.pop(entry["id"], None)

    def _await(self, future: Future[bool], wait_s: float) -> None:
        try:
            future.result(timeout=wait_s)
        except WaitTimeout:
            self._warn(f"no answer within {wait_s:.0f} s")

    def _warn(self, cause: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "MLflow at %s failed (%s). The run goes on, what MLflow misses is kept, and it is tried again every "
                "%.0f s without further warnings; check the tracking URI and its server.",
                mask(self.uri),
                cause,
                COOL_DOWN_S,
            )


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    return {key(name): float(value) for name, value in values.items()}
