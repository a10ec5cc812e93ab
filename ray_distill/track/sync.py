"""Send a run's missed records to MLflow later: ray-distill track sync RUN."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from ray_distill.config import ConfigError
from ray_distill.jsonl import read_document
from ray_distill.secrets import HIDDEN
from ray_distill.track.client import close_run
from ray_distill.track.outbox import Outbox
from ray_distill.track.sender import RUN
from ray_distill.track.tracker import Tracker


def sync(
    folder: Path, uri: str | None = None, later: Mapping[str, float] | None = None, step: int = 0
) -> tuple[int, int]:
    """Send the waiting calls of a run's folder, and close the run if its driver could not; returns (sent, still
    waiting). ``later`` are metrics that were measured after the run, at its ``step``.

    ``uri`` replaces the run's own; it is needed if that has a password, since no file keeps passwords. ConfigError if
    neither exists. Nothing is sent twice.
    """
    waiting = Outbox(folder)
    opening = [entry["uri"] for entry in waiting.of("open")]
    uris = [*opening, *([read_document(folder / RUN, "run_id").get("uri", "")] if (folder / RUN).is_file() else [])]
    if not len(waiting) and not uris:
        raise ConfigError(
            f"{folder}: no run was tracked in this folder; give a run's folder, such as output/quickstart"
        )
    uri = uri or next(filter(None, uris), "")
    if not uri or HIDDEN in uri:
        raise ConfigError(f"{folder}: no file keeps its whole tracking URI ({uri or 'unknown'}); add track.uri=...")
    if later:
        values = {"step": step, "values": dict(later)}
        waiting.add({"call": "metrics", "id": uuid.uuid4().hex, "at": int(time.time() * 1000), **values})
    tracker, before = Tracker(uri, folder=folder), len(waiting)
    if before and not tracker.run_id and not opening:
        raise ConfigError(
            f"{folder}: its {RUN} is lost; repeat the command that trained this run: it resumes and sends all"
        )
    tracker.send()
    left = tracker.left
    if not left and tracker.run_id:
        close_run(uri, tracker.run_id, "KILLED")
    return before - left, left
