"""Post a run's events as JSON to a web hook from a separate thread; an outage costs a warning."""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from queue import Full, Queue
from typing import Any, Literal

from pydantic import AliasChoices, ConfigDict, Field, SecretStr, ValidationError

from ray_distill.config import ConfigError
from ray_distill.secrets import mask_tree
from ray_distill.settings import Section

log = logging.getLogger(__name__)
Event = Literal["start", "checkpoint", "validation", "end", "failure"]

TIMEOUT_S = 5.0
ATTEMPTS = 3
PAUSE_S = 1.0  # before another attempt, times its number
WAITING = 100  # events; more are dropped
END_WAIT_S = 5.0


class Hook(Section):
    """The file that ``track.webhook`` names. ``callback_url`` is the address; ``log_level`` is accepted and unused."""

    model_config = ConfigDict(hide_input_in_errors=True)

    callback_url: SecretStr = Field(validation_alias=AliasChoices("callback_url", "webhook_url"))
    webhook_type: Literal["raw"] = "raw"
    message_prefix: str = ""
    log_level: str = "info"


def read_hook(path: Path) -> Hook:
    """Read the file of a hook; ConfigError names the file and its mistake without values, since an address is a
    secret."""
    where = f"track.webhook = {path}"
    if not path.is_file():
        raise ConfigError(f'{where}: no such file. Write {{"callback_url": "https://..."}} into it, or add --no-push')
    try:
        content = json.loads(path.read_text())
    except ValueError:
        raise ConfigError(f"{where}: this is not valid JSON") from None
    try:
        hook = Hook.model_validate(content)
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, e["loc"])) or "the whole" for e in error.errors(include_input=False))
        raise ConfigError(
            f"{where}: {keys}: give one mapping with callback_url and, optionally, message_prefix and webhook_type = "
            "raw"
        ) from None
    if not hook.callback_url.get_secret_value().startswith(("http://", "https://")):
        raise ConfigError(f"{where}: callback_url must start with http:// or https://")
    return hook


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Handler that follows no redirect, which would carry events and the address to a host that nobody named."""

    def redirect_request(self, *_: Any) -> None:
        return None


class WebHook:
    """``send`` returns at once and never raises. Without a file nothing is sent."""

    def __init__(self, path: Path | None, run: str) -> None:
        self._hook = read_hook(path) if path else None
        self._run = run
        self._queue: Queue[bytes | None] = Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
        self._warned = False
        self._opener = urllib.request.build_opener(_NoRedirect)
        if self._hook:
            self._thread.start()

    def send(self, event: Event, message: str, **values: Any) -> None:
        """Post ``message`` and ``values`` (plain JSON types) under the name of ``event``."""
        if self._hook is None:
            return
        header = {"event": event, "run": self._run, "time": time.time()}
        body = json.dumps(header | {"message": f"{self._hook.message_prefix}{message}"} | values).encode()
        self._put(body)

    def close(self) -> None:
        """Wait at most ``END_WAIT_S`` for waiting events."""
        if self._hook is not None and self._thread.is_alive():
            self._put(None)
            self._thread.join(END_WAIT_S)

    def _put(self, body: bytes | None) -> None:
        try:
            self._queue.put_nowait(body)
        except Full:
            self._warn("it is too slow, and events are dropped")

    def _work(self) -> None:
        while (body := self._queue.get()) is not None:
            self._post(json.dumps(mask_tree(json.loads(body))).encode())

    def _post(self, body: bytes) -> None:
        assert self._hook is not None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                request = urllib.request.Request(
                    self._hook.callback_url.get_secret_value(), body, {"Content-Type": "application/json"}
                )
                with self._opener.open(request, timeout=TIMEOUT_S):
                    return
            except Exception as error:  # whatever a network raises, the run must continue
                cause = error
            time.sleep(PAUSE_S * attempt if attempt < ATTEMPTS else 0)
        code = f" {cause.code}" if isinstance(cause, urllib.error.HTTPError) else ""
        self._warn(f"{type(cause).__name__}{code}")  # its text may contain the address

    def _warn(self, cause: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "the web hook of track.webhook failed (%s). The run goes on without further warnings of it.", cause
            )
