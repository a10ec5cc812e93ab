"""Check that `track.uri` names a store of MLflow that can be written."""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from ray_distill.config import ConfigError

STORES = {"http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks"}
"""Schemes of MLflow's own tracking stores but its files; packages may bring others."""
SERVER = re.compile(r"(?:[^/@]*@)?([\w.-]+:\d+)(?:/|$)")
FILES = "MLFLOW_ALLOW_FILE_STORE"


def check_store(uri: str) -> None:
    """ConfigError unless MLflow has a store for ``uri``, where an empty one tracks nothing. Else the run would go on,
    and no call of it would ever be sent."""
    if not uri or uri == "databricks":
        return
    if server := SERVER.match(uri):
        raise ConfigError(f"track.uri = {server[1]}: MLflow has no such store; write http://{server[1]}")
    scheme = urlsplit(uri).scheme
    if scheme.partition("+")[0] in STORES | {
        entry.name for entry in metadata.entry_points(group="mlflow.tracking_store")
    }:
        return
    if scheme not in ("", "file"):
        raise ConfigError(
            f"track.uri = {scheme}:...: MLflow has no such store; use http://HOST:5000, or a database such as "
            "sqlite:///mlruns/mlflow.db; track.uri='' tracks nothing"
        )
    if os.environ.get(FILES, "").lower() not in ("true", "1"):
        folder = Path(urlsplit(uri).path)
        raise ConfigError(
            f"track.uri = {uri}: MLflow keeps new runs in no folder of files; use sqlite:///{folder / 'mlflow.db'}, or "
            f"http://HOST:5000 for a server, or set {FILES}=true, with which MLflow still writes such folders"
        )
