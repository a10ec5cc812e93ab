"""A headless Chromium that tests steer by its debugging protocol, over two pipes: no port, no other library."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-extensions --remote-debugging-pipe --window-size=1300,1000"
)


class Tab:
    """One tab: calls of the protocol, and the events that came meanwhile."""

    def __init__(self, to: int, of: int) -> None:
        self._to, self._of, self._rest, self._calls = to, of, b"", 0
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = None
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one call; RuntimeError where the browser refuses it."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._calls:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def value(self, script: str) -> Any:
        """What ``script``, an expression that may be a promise, becomes in the page, as a user's click would run it."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def open(self, address: str, seconds: float = 60) -> None:
        """Load a page, and wait until all that it needs is there."""
        self.call("Page.navigate", url=address)
        deadline = time.monotonic() + seconds
        while self.value("document.readyState") != "complete":
            assert time.monotonic() < deadline, "the page did not load"
            time.sleep(0.1)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._of, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def tab(program: str, folder: Path) -> Iterator[Tab]:
    """A tab of a browser of its own, with its profile in ``folder``, which ends with the block."""
    to_read, to_write = os.pipe()
    of_read, of_write = os.pipe()
    command = f'exec "$0" {FLAGS} "--user-data-dir={folder}" 3<&{to_read} 4>&{of_write}'
    browser = subprocess.Popen(
        ["bash", "-c", command, program],
        pass_fds=(to_read, of_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(of_write)
    try:
        yield Tab(to_write, of_read)
    finally:
        browser.kill()
        browser.wait()
        os.close(to_write)
        os.close(of_read)
