"""Lock a run's folder, so that it has one driver at a time."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray_distill.config import ConfigError

FILE = ".driver"


@contextmanager
def claim(run_dir: Path, name: str = FILE) -> Iterator[None]:
    """Hold the run's folder as its only driver, and make the folder if needed; ConfigError names another driver.
    ``name`` is the lock's file.

    The system releases the lock when the process ends in any way. A file system without locks gives no lock.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / name).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                f"{run_dir} is being written by another driver ({file.read() or 'of an unknown place'}): "
                "wait for it, stop it, or choose another name"
            ) from None
        except OSError:
            yield
            return
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        file.flush()
        yield
