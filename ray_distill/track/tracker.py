"""One MLflow run of the driver's; in an outage it warns once, retries, and never stops the run.

All traffic goes through one thread of our own and MLflow's synchronous calls. MLflow's asynchronous logging would drop
the batches of an outage, print each failure with the URI's password, and wait without a deadline at the end.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_distill.config.sections import absolute_uri
from ray_distill.secrets import mask, mask_tree
from ray_distill.track.client import Status, key, one_line
from ray_distill.track.courier import Courier
from ray_distill.track.outbox import Entry, Outbox
from ray_distill.track.sender import METRICS_BATCH, Sender, is_refused, is_too_large

log = logging.getLogger(__name__)

COOL_DOWN_S = 30.0  # pause after a failure before the server is tried again
START_WAIT_S = 30.0  # the driver waits this long for a run id, then continues; the run may still open later
UPLOAD_WAIT_S = 60.0  # for one file at the end of a run
UPLOADS_WAIT_S = 90.0  # for all of them
END_WAIT_S = 20.0
FILES = ("artifact", "picture", "register", "dataset")
"""Calls that may fail alone, by their size or store, without stopping the others."""


class Tracker:
    """One MLflow run: call ``start`` in the driver, then log, and finally ``end``.

    The tracker first keeps each call in ``track.jsonl`` of the run's folder, and removes it once MLflow has it. After
    an outage the run itself, a resumed run, or ``ray-distill track sync`` sends the rest. No method raises, or delays a
    step for the server: the first failure costs a warning, and the tracker retries at most every ``COOL_DOWN_S``.
    Without a URI every method does nothing. ``artifact`` and ``register`` wait for their own upload, at most
    ``UPLOAD_WAIT_S`` each and ``UPLOADS_WAIT_S`` together, the others return at once.
    """

    def __init__(self, uri: str | None, run_id: str | None = None, folder: Path | None = None) -> None:
        self.uri, self.folder = absolute_uri(uri or ""), folder
        self._sender = Sender(self.uri, folder if self.uri else None, run_id)
        self._outbox = Outbox(folder if self.uri else None)
        self._results: dict[str, Any] = {}
        self._awaited: set[str] = set()
        self._tables: list[dict[str, str]] = []
        self._ended = not self.uri
        self._warned, self._warnings = False, set[str]()
        self._patience = UPLOADS_WAIT_S
        self._retry_at = 0.0
        self._most = METRICS_BATCH  # entries per call; fewer after a server refused more
        self._courier, self._opening = Courier(self.send), 0

    @property
    def left(self) -> int:
        """Number of calls that MLflow has not received yet."""
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
        *,
        wait: bool = True,
    ) -> Tracker:
        """Open a run, below ``parent_run_id`` if given, or continue the run of ``folder``, else ``run_id``.

        ``params`` is flat; values beyond MLflow's 6000 characters are cut. ``run_id`` of the result is None until the
        server answers. Without ``wait`` this returns at once, and ``opened`` waits.
        """
        tracker = cls(uri, run_id, folder)
        parent = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
        texts = {name: mask(str(value)) for name, value in params.items()}
        own = {"name": run_name, "params": texts, "tags": {**tags, **parent}}
        tracker._open(experiment, own)
        if wait:
            tracker.opened()
        return tracker

    def _open(self, experiment: str, opening: Mapping[str, Any]) -> None:
        """Ask the server to open the run."""
        if self._ended:
            return
        left = self._outbox.first()
        # The run that an earlier session requested continues. Its other entries, except its end, wait until a run is
        # known to exist.
        first = left is not None and left["call"] != "open"
        if first:
            self._outbox.forget("end")
        entry = self._entry("open", uri=mask(self.uri), experiment=experiment, opening=opening)
        self._outbox.add(entry, first=first)
        self._opening = self._courier.nudge()

    def opened(self) -> None:
        """Wait for the run's id, at most ``START_WAIT_S``."""
        if self._ended or self._courier.wait(self._opening, START_WAIT_S, lambda: self._sender.opened):
            return
        self._warn(f"no answer within {START_WAIT_S:.0f} s")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log ``values`` at ``step``."""
        self._post("metrics", step=step, values=_numbers(values))

    def system(self, values: Mapping[str, float]) -> None:
        """Log system metrics; their step is the age of the run in seconds."""
        self._post("metrics", True, step=None, values=_numbers({f"system/{k}": value for k, value in values.items()}))

    def tags(self, values: Mapping[str, str]) -> None:
        self._post("tags", values={name: mask(value) for name, value in values.items()})

    def note(self, markdown: str) -> None:
        """Set the run's description in MLflow."""
        self.tags({"mlflow.note.content": markdown})

    def dataset(self, name: str, source: str | Path, digest: str, card: Mapping[str, Any]) -> None:
        """Log the run's training data: its manifest, a digest of at most 36 characters and its counts."""
        self._post("dataset", name=name, source=mask(str(source)), digest=digest, card=mask_tree(dict(card)))

    def videos(self, folder: Path, step: int) -> None:
        """Upload ``folder`` as ``videos/step_000175``, where MLflow plays its MP4s."""
        self._post("artifact", path=str(folder), folder=f"videos/step_{step:06d}")

    def picture(self, path: Path, step: int) -> None:
        """Log an image file; those of equal names are one series over steps."""
        self._post("picture", path=str(path), step=step)

    def artifact(self, path: Path, folder: str = "", wait: bool = True) -> None:
        """Upload a file, or a directory's content, under ``folder`` of the run's artifacts.

        Without ``wait`` it must stay in its place, since after an outage it is sent later.
        """
        self._post("artifact", wait=wait, path=str(path), folder=folder)

    def table(self, path: Path, folder: str) -> None:
        """Upload a JSON file of columns and rows under ``folder`` of the run's artifacts, where MLflow shows a
        table."""
        self._tables.append({"path": f"{folder}/{path.name}", "type": "table"})
        self.artifact(path, folder)
        self.tags({"mlflow.loggedArtifacts": json.dumps(self._tables)})

    def register(self, folder: Path, name: str, alias: str | None = None, description: str = "") -> str | None:
        """Upload ``folder`` as the run's artifact ``student`` and register it; returns the version, or None on failure.

        The version's source is the artifact folder itself, found again by ``models:/name/version`` or
        ``models:/name@alias``; nothing is pickled. ``description`` is Markdown; a link to the run follows it.
        """
        whole = mask(description)
        version: str | None = self._post(
            "register", wait=True, path=str(folder), name=name, alias=alias, description=whole
        )
        return version

    def end(self, status: Status) -> None:
        """Send the waiting calls and close the run, within ``END_WAIT_S``. Later calls do nothing."""
        if self._ended:
            return
        self._outbox.add(self._entry("end", status=status))
        self._ended, self._retry_at = True, 0.0
        self._courier.wait(self._courier.nudge(), END_WAIT_S, lambda: not self.left)
        self._courier.close()
        if self.left and self.folder:
            log.warning(
                "MLflow misses a part of this run, which its folder keeps. When MLflow is back: ray-distill track "
                "sync %s",
                self.folder,
            )

    def send(self) -> bool:
        """Send the waiting calls in order; True if none is left. Only the courier's thread calls it, so it needs no
        lock."""
        if self._courier.now() < self._retry_at:
            return False
        postponed: list[Entry] = []
        failures = 0
        while (entry := self._outbox.first()) is not None:
            if entry in postponed or failures > 1:
                self._retry_at = self._courier.now() + COOL_DOWN_S
                return False
            entries = self._outbox.ahead(min(self._most, self._sender.most(entry)))
            try:
                self._keep(entry, self._sender.send(entries))
                failures = 0
            except Exception as error:  # whatever a tracker or its network raises, the run must continue
                cause, large = one_line(error), is_too_large(error)
                if is_refused(entry, error):
                    self._say(f"MLflow does not take {entry['call']} of this run ({cause}); it is left out")
                elif large and len(entries) > 1:
                    self._most = len(entries) // 2
                    continue
                else:
                    self._warn(cause)
                    # A too large call fails alone, and a file may; if the next one also fails, the server is to blame.
                    alone = entry["call"] in FILES or (large and entry["call"] != "open")
                    failures += int(not large) if alone else 2
                    if failures < 2:
                        postponed.append(entry)
                        self._outbox.postpone()
                        self._awaited.discard(entry.get("id", ""))
                    continue
            self._outbox.sent(len(entries))
            self._awaited.discard(entry.get("id", ""))
        return True

    def _keep(self, entry: Entry, result: Any) -> None:
        """Keep the outcome for the thread that waits for it."""
        if result is not None and entry.get("id") in self._awaited:
            self._results[entry["id"]] = result

    def _entry(self, call: str, **values: Any) -> Entry:
        return {"call": call, "id": uuid.uuid4().hex, "at": int(time.time() * 1000), **values}

    def _post(self, call: str, dispensable: bool = False, wait: bool = False, **values: Any) -> Any:
        """Keep a call and have it sent; with ``wait`` returns its result, or None if it was not sent in time."""
        if self._ended:
            return None
        entry = self._entry(call, **values)
        if wait:
            self._awaited.add(entry["id"])
        self._outbox.add(entry, dispensable)
        nudge = self._courier.nudge()
        if not wait:
            return None
        began, seconds = self._courier.now(), min(UPLOAD_WAIT_S, self._patience)
        if not self._courier.wait(nudge, seconds, lambda: entry["id"] not in self._awaited):
            self._warn(f"no answer within {seconds:.0f} s")
        self._patience -= self._courier.now() - began
        return self._results.pop(entry["id"], None)

    def _warn(self, cause: str) -> None:
        if not self._warned:
            self._warned = True
            self._say(
                f"MLflow at {mask(self.uri)} failed ({cause}). The run goes on, keeps the calls that MLflow misses, "
                f"and tries again every {COOL_DOWN_S:.0f} s without further warnings; check the URI and its server."
            )

    def _say(self, warning: str) -> None:
        """Print a warning once."""
        if warning not in self._warnings:
            self._warnings.add(warning)
            log.warning("%s", warning)


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    return {key(name): float(value) for name, value in values.items()}
