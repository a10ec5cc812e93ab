#!/usr/bin/env bash
# Exceptions that a handler of signals raises while Ray waits for a task.
# Versions: Ray 2.60.0.
# Guess: they leave ray.get and ray.wait as KeyboardInterrupt does, at once and by their own type.
# Seen: KeyboardInterrupt ends both at once. Any other exception is held back until the call ends by itself (its timeout, or
# the task's end), and comes as the cause of a SystemError: "... returned a result with an exception set".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import os
import signal
import threading
import time

import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")


class Stop(Exception):
    pass


@ray.remote
def sleep():
    time.sleep(600)


def ended(wait, error):
    """What leaves ``wait``, the type of its cause, and whether it came before the timeout of 10 s."""

    def handler(*_):
        raise error

    signal.signal(signal.SIGTERM, handler)
    task = sleep.remote()
    threading.Timer(2, os.kill, [os.getpid(), signal.SIGTERM]).start()
    began = time.monotonic()
    try:
        wait(task)
    except BaseException as caught:
        return type(caught).__name__, type(caught.__cause__).__name__, time.monotonic() - began < 9
    finally:
        ray.cancel(task, force=True)


print(f"Ray {ray.__version__}")
for name, wait in (
    ("ray.get", lambda task: ray.get(task, timeout=10)),
    ("ray.wait", lambda task: ray.wait([task], timeout=10)),
    ("time.sleep", lambda task: time.sleep(10)),
):
    held = name != "time.sleep"
    for error, expected in (
        (KeyboardInterrupt, ("KeyboardInterrupt", "NoneType", True)),
        (Stop, ("SystemError", "Stop", False) if held else ("Stop", "NoneType", True)),
    ):
        seen = ended(wait, error)
        print(f"{error.__name__} in {name}: {seen[0]}, cause {seen[1]}, before the timeout: {seen[2]}")
        assert seen == expected, f"expected {expected}"
PYTHON
