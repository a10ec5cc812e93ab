"""MLflow calls that create a run and fill it; each passes on MLflow's errors."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_distill.track.client import artifact_root, keys, model_name, one_line, text
from ray_distill.track.names import source_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Param, Run

log = logging.getLogger(__name__)
SENT_AS = "sent_as"
PARAM_LENGTH, TAG_LENGTH, DESCRIPTION_LENGTH, BATCH = 6000, 5000, 5000, 100  # MLflow refuses more


def experiment(client: MlflowClient, uri: str, name: str) -> str:
    """Id of the experiment ``name``, which the call makes if there is none."""
    if match := client.get_experiment_by_name(name):
        return _id(match.experiment_id)
    try:
        return _id(client.create_experiment(name, artifact_location=artifact_root(uri)))
    except Exception:  # if another trial was faster, the look-up finds it; otherwise it is a real failure
        if match := client.get_experiment_by_name(name):
            return _id(match.experiment_id)
        raise


def make_run(client: MlflowClient, experiment_id: str, name: str, sent_as: str, at: int) -> Run:
    """Create a run that began ``at`` (ms), with its source."""
    tags = _cut(source_tags()) | {SENT_AS: sent_as}
    run = client.create_run(experiment_id, start_time=at, tags=tags, run_name=name)
    _id(run.info.run_id)
    return run


def opened_before(client: MlflowClient, experiment_id: str, sent_as: str) -> Run | None:
    """The run of an earlier call of ``make_run`` whose answer was lost."""
    return next(iter(client.search_runs([experiment_id], f"tags.{SENT_AS} = '{sent_as}'", max_results=1)), None)


def resume(client: MlflowClient, run_id: str) -> Run | None:
    """Set the run to running and return it; None if this server does not know it or its users have deleted it."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if not is_final(error, ("RESOURCE_DOES_NOT_EXIST",)):
            raise
        return None
    _id(run.info.run_id)
    if run.info.lifecycle_stage == "deleted":
        return None
    client.update_run(run_id, status="RUNNING")
    return run


def is_final(error: Exception, codes: Collection[str]) -> bool:
    """True if MLflow itself, not a proxy in front of it, answered with one of ``codes``."""
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, RestException):  # of a JSON body, which others also send: with numbers, or without a code
        return error.json.get("error_code") in codes
    # For a body that is not JSON this client turns the status into BAD_REQUEST, ENDPOINT_NOT_FOUND or INTERNAL_ERROR.
    return isinstance(error, MlflowException) and error.error_code in codes


def _id(text: object) -> str:
    """Id of the answer; ConnectionError without one, since the answer is then not MLflow's."""
    if not isinstance(text, str) or not text:
        raise ConnectionError("the answer is not MLflow's: it has no id")
    return text


def describe(client: MlflowClient, run: Run, params: Mapping[str, Any]) -> None:
    """Log the new ones of ``params``; name and leave out those that MLflow refuses."""
    from mlflow.entities import Param

    logged, run_id = run.data.params, run.info.run_id
    texts = dict(zip(keys(params), (text(value, PARAM_LENGTH) for value in params.values()), strict=True))
    changed = sorted(name for name, value in texts.items() if logged.get(name, value) != value)
    if changed:
        log.warning("MLflow keeps the first values of the run's changed parameters: %s", ", ".join(changed))
    new = [Param(name, value) for name, value in texts.items() if name not in logged]
    for start in range(0, len(new), BATCH):
        _log_params(client, run_id, new[start : start + BATCH])


def _log_params(client: MlflowClient, run_id: str, params: Sequence[Param]) -> None:
    """Log a batch, or its halves if MLflow refuses it."""
    try:
        client.log_batch(run_id, params=params)
    except Exception as error:  # stores raise more than MLflow's own; all but a refusal are raised again
        if not is_final(error, ("INVALID_PARAMETER_VALUE",)):
            raise
        if len(params) == 1:
            log.warning("MLflow does not take the parameter %s (%s); it is left out", params[0].key, one_line(error))
            return
        middle = len(params) // 2
        _log_params(client, run_id, params[:middle])
        _log_params(client, run_id, params[middle:])


def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in _cut(tags).items()])


def _cut(tags: Mapping[str, str]) -> dict[str, str]:
    return dict(zip(keys(tags), (text(value, TAG_LENGTH) for value in tags.values()), strict=True))


def upload(client: MlflowClient, run_id: str, path: Path, folder: str) -> None:
    """Upload a file, or a directory's content, under ``folder`` of the run's artifacts."""
    (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path), folder or None)


def log_picture(client: MlflowClient, run_id: str, path: Path, step: int, at: int) -> None:
    """Log an image under the file's stem, one of a series over steps, unless it has one of the time ``at`` (ms)."""
    from PIL import Image

    name = re.sub(r"[^A-Za-z0-9_\-. ]", "_", path.stem)
    if any(f"{name}+step+{step}+timestamp+{at}+" in there.path for there in client.list_artifacts(run_id, "images")):
        return
    with Image.open(path) as image:
        client.log_image(run_id, image.convert("RGB"), key=name, step=step, timestamp=at)


def log_dataset(
    client: MlflowClient, run_id: str, name: str, source: str | Path, digest: str, profile: Mapping[str, Any]
) -> None:
    """Log the run's training data as MLflow's dataset input; ``digest`` has at most 36 characters."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    where = json.dumps({"uri": str(source)})
    dataset = Dataset(name, digest, source_type="local", source=where, profile=json.dumps(profile))
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def run_page(client: MlflowClient, run_id: str) -> str:
    """The address of a run's page, behind that of MLflow's own."""
    return f"#/experiments/{client.get_run(run_id).info.experiment_id}/runs/{run_id}"


def register(
    client: MlflowClient, run_id: str, folder: Path, name: str, alias: str | None, sent_as: str, description: str = ""
) -> str:
    """Upload ``folder`` as the artifact ``student`` and register it, unless ``sent_as`` is registered; returns the
    version. The model and its version get ``description``, with a link to the run and the place of the folder."""
    from mlflow.exceptions import MlflowException

    name = model_name(name)
    upload(client, run_id, folder, "student")
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/student"
    versions = [each for each in client.search_model_versions(f"name='{name}'") if each.tags.get(SENT_AS) == sent_as]
    if not versions:
        versions = [client.create_model_version(name, source, run_id=run_id, tags={SENT_AS: sent_as})]
    version = str(versions[0].version)
    links = f"[The run]({run_page(client, run_id)}) that made it; its folder: `{text(folder.absolute())}`"
    whole = text(f"{description}\n\n{links}".strip(), DESCRIPTION_LENGTH)
    client.update_model_version(name, version, whole)
    client.update_registered_model(name, whole)
    if alias:
        client.set_registered_model_alias(name, alias, version)
    return version
