"""MLflow's client as we want it, quiet and with deadlines, and the names and places that MLflow takes."""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING, Literal

from ray_distill.config.secrets import mask
from ray_distill.config.sections import absolute_uri, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
Status = Literal["FINISHED", "FAILED", "KILLED"]

KEY_LENGTH = 250  # MLflow refuses more

# With MLflow's own defaults a refused connection blocks for four minutes. A user's values win.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the line would show a password in the URI
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def quiet_client(uri: str) -> MlflowClient:
    """A client that prints nothing and gives up within seconds; ``uri`` is absolute (see ``absolute_uri``)."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient  # after the environment, and only where a run is tracked: the import takes seconds

    # Each of these repeats what the tracker warns about once, some with the URI's password.
    for name, level in {
        "mlflow": logging.WARNING,
        "alembic": logging.WARNING,
        "urllib3.connectionpool": logging.ERROR,
    }.items():
        logger = logging.getLogger(name)
        logger.setLevel(max(level, logger.level))
    if path := sqlite_path(uri):
        path.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def close_run(uri: str, run_id: str, status: Status) -> bool:
    """End a run whose own process could not; a run that has ended stays as it is. Whether this call ended it.

    Never raises: a server that does not answer costs a warning and MLflow's HTTP deadlines.
    """
    try:
        client = quiet_client(absolute_uri(uri))
        if client.get_run(run_id).info.status != "RUNNING":
            return False
        client.set_terminated(run_id, status)
        return True
    except Exception as error:  # whatever the tracker or its network raises, the caller's work is worth more
        log.warning("MLflow at %s: run %s could not be closed (%s).", mask(uri), run_id, one_line(error))
        return False


def one_line(error: Exception) -> str:
    """``error`` for a log: one line of at most 500 characters, without passwords."""
    return mask(" ".join(f"{type(error).__name__}: {error}".split()))[:500]


def key(name: str) -> str:
    """``name`` with what MLflow refuses in keys replaced by ``_``."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:KEY_LENGTH]


def artifact_root(uri: str) -> str | None:
    """Beside a SQLite database, so that nothing lands in the working directory; a server knows its own place."""
    path = sqlite_path(uri)
    return (path.parent / "mlartifacts").as_uri() if path else None
