"""What a run is in MLflow: each function makes its calls, and raises what they raise."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_distill.config.secrets import mask
from ray_distill.track.client import artifact_root, key
from ray_distill.track.names import source_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)
SENT_AS = "sent_as"
PARAM_LENGTH, TAG_LENGTH, BATCH = 6000, 5000, 100  # MLflow refuses more


def open_run(
    client: MlflowClient,
    uri: str,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    run_id: str | None,
    at: int,
) -> Run:
    """Continue ``run_id`` where the server knows it, else make a run that began ``at`` (ms); with parameters, tags and
    its source."""
    experiment_id = _experiment(client, uri, experiment)
    run = _resume(client, uri, run_id) if run_id else None
    known = run.data.params if run else {}
    run = run or client.create_run(experiment_id, start_time=at, tags=_cut(source_tags()), run_name=name)
    _describe(client, run.info.run_id, known, params)
    set_tags(client, run.info.run_id, tags)
    return run


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    """The id of the experiment ``name``, which is made where there is none."""
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    try:
        return client.create_experiment(name, artifact_location=artifact_root(uri))
    except Exception:  # another trial was faster, which the look-up tells from a real failure
        if found := client.get_experiment_by_name(name):
            return str(found.experiment_id)
        raise


def _resume(client: MlflowClient, uri: str, run_id: str) -> Run | None:
    """The run, running again; None where this server does not know it."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
        client.update_run(run_id, status="RUNNING")
        return run
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        log.warning("MLflow at %s does not know run %s; a new run is opened.", mask(uri), run_id)
        return None


def _describe(client: MlflowClient, run_id: str, known: Mapping[str, str], params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    wanted = {key(name): mask(str(value))[:PARAM_LENGTH] for name, value in params.items()}
    changed = sorted(name for name, value in wanted.items() if known.get(name, value) != value)
    if changed:
        log.warning("MLflow keeps the first values of the run's changed parameters: %s", ", ".join(changed))
    new = [Param(name, value) for name, value in wanted.items() if name not in known]
    for start in range(0, len(new), BATCH):
        client.log_batch(run_id, params=new[start : start + BATCH])


def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in _cut(tags).items()])


def _cut(tags: Mapping[str, str]) -> dict[str, str]:
    return {key(name): mask(str(value))[:TAG_LENGTH] for name, value in tags.items()}


def upload(client: MlflowClient, run_id: str, path: Path, folder: str) -> None:
    """A file, or a directory's content, under ``folder`` of the run's artifacts."""
    (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path), folder or None)


def log_picture(client: MlflowClient, run_id: str, path: Path, step: int, at: int) -> None:
    """An image named by the file's stem, one of a series over steps; unless there is one of that time, ``at`` (ms)."""
    from PIL import Image

    name = re.sub(r"[^A-Za-z0-9_\-. ]", "_", path.stem)
    if any(f"{name}+step+{step}+timestamp+{at}+" in there.path for there in client.list_artifacts(run_id, "images")):
        return
    with Image.open(path) as image:
        client.log_image(run_id, image.convert("RGB"), key=name, step=step, timestamp=at)


def log_dataset(
    client: MlflowClient, run_id: str, name: str, source: str | Path, digest: str, profile: Mapping[str, Any]
) -> None:
    """The run's training data as MLflow's dataset input; ``digest`` has at most 36 characters."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    where = json.dumps({"uri": str(source)})
    dataset = Dataset(name, digest, source_type="local", source=where, profile=json.dumps(profile))
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def register(client: MlflowClient, run_id: str, folder: Path, name: str, alias: str | None, sent_as: str) -> str:
    """Upload ``folder`` as the artifact ``student`` and register it, unless ``sent_as`` was already; the version."""
    from mlflow.exceptions import MlflowException

    upload(client, run_id, folder, "student")
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/student"
    made = [found for found in client.search_model_versions(f"name='{name}'") if found.tags.get(SENT_AS) == sent_as]
    if not made:
        made = [client.create_model_version(name, source, run_id=run_id, tags={SENT_AS: sent_as})]
    version = str(made[0].version)
    if alias:
        client.set_registered_model_alias(name, alias, version)
    return version
