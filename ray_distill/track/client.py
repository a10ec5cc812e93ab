"""MLflow's client with deadlines and without noise; valid names and paths."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from ray_distill.collector import at_rest
from ray_distill.config.sections import absolute_uri, sqlite_path
from ray_distill.secrets import mask

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
Status = Literal["FINISHED", "FAILED", "KILLED"]

KEY_LENGTH = 250  # MLflow refuses more

# With MLflow's own defaults a refused connection blocks for four minutes. A user's values override these.
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
    with at_rest():  # after the environment, and only where a run is tracked: the import takes seconds
        from mlflow import MlflowClient

    # Each of these repeats the tracker's one warning, some with the URI's password.
    for name, level in {
        "mlflow": logging.CRITICAL,
        "alembic": logging.CRITICAL,
        "urllib3.connectionpool": logging.CRITICAL,
    }.items():
        logger = logging.getLogger(name)
        logger.setLevel(max(level, logger.level))
    if path := sqlite_path(uri):
        path.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def close_run(uri: str, run_id: str, status: Status) -> bool:
    """End a run whose own process could not; True if this call ended it. An ended run stays unchanged.

    Never raises: a server that does not answer costs a warning and MLflow's HTTP deadlines.
    """
    try:
        client = quiet_client(absolute_uri(uri))
        if client.get_run(run_id).info.status != "RUNNING":
            return False
        client.set_terminated(run_id, status)
        return True
    except Exception as error:  # whatever the tracker or its network raises, the caller must continue
        log.warning("MLflow at %s: run %s could not be closed (%s).", mask(uri), run_id, one_line(error))
        return False


def one_line(error: Exception) -> str:
    """``error`` for a log: one line of at most 500 characters, without passwords."""
    return mask(" ".join(f"{type(error).__name__}: {error}".split()))[:500]


def key(name: str) -> str:
    """``name`` as MLflow takes it: ``_`` replaces other characters, and each part of a path that is empty or dots.

    A name that is too long ends in a hash, since only its end may differ from others.
    """
    parts = text(re.sub(r"[^\w\-. :/]", "_", name)).split("/")
    fit = "/".join(re.sub(r"^(\.\.+|\.?$)", lambda dots: "_" * max(1, len(dots[0])), part) for part in parts)
    return fit if len(fit) <= KEY_LENGTH else f"{fit[: KEY_LENGTH - 9]}_{_hash(name)}"


def keys(names: Iterable[str]) -> list[str]:
    """``key`` of each name, with a hash if two would become equal."""
    names = list(names)
    fit = [key(name) for name in names]
    taken = Counter(fit)
    return [
        f"{own[: KEY_LENGTH - 9]}_{_hash(name)}" if taken[own] > 1 and own != name else own
        for name, own in zip(names, fit, strict=True)
    ]


def model_name(name: str) -> str:
    """``name`` as MLflow's registry takes it."""
    return re.sub(r"[/:]", "_", key(name))


def text(value: object, length: int | None = None) -> str:
    """``value`` without secrets, cut, and without characters that a database or JSON refuses: NUL, half a surrogate
    pair."""
    return mask(str(value)).encode("utf-8", "replace").decode().replace("\0", "?")[:length]


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]


def artifact_root(uri: str) -> str | None:
    """Folder of artifacts beside a SQLite database, so that none lands in the working directory; a server has its
    own."""
    path = sqlite_path(uri)
    return (path.parent / "mlartifacts").as_uri() if path else None
