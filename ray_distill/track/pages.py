"""Lines that say how to open a run's page in MLflow."""

from __future__ import annotations

import shlex
from pathlib import Path

from ray_distill.jsonl import read_document
from ray_distill.secrets import mask
from ray_distill.track.sender import RUN

LOCAL = "http://127.0.0.1:5000"
"""The address of ``mlflow ui``."""


def browsing(uri: str, run_dir: Path) -> list[str]:
    """Lines for a terminal: the address of the run's page on its server, or for a database the command that serves it
    and the address then; none for a run that is not tracked."""
    if not uri:
        return []
    page = read_document(run_dir / RUN, "run_id").get("page", "") if (run_dir / RUN).is_file() else ""
    if uri.startswith(("http://", "https://")):
        return [f"{mask(uri).rstrip('/')}/{page}"]
    served = f"mlflow ui --backend-store-uri {shlex.quote(mask(uri))} --host 127.0.0.1"
    return [f"{served}   # then open {LOCAL}/{page}"]
