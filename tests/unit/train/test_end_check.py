"""What fails after the training, or leaves nothing to publish: refused before it."""

import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from ray_distill.config import ConfigError
from ray_distill.evaluate.metrics.classifier import Metric
from ray_distill.train.driver.check import check_track
from ray_distill.train.driver.checks.evaluation import check_cache, check_evaluation
from ray_distill.train.driver.checks.folders import check_folders
from ray_distill.train.driver.checks.networks import check_updates
from ray_distill.train.driver.checks.pipeline import check_export
from ray_distill.train.driver.checks.store import check_store
from tests.unit.disks import file_limit
from tests.unit.toys import run_config

DIGITS = Path(__file__).parents[3] / "examples" / "digits_teacher"
METRIC = DIGITS / "metric"
FOLDERS = ("./mlruns", "mlruns", "/a/mlruns", "~/mlruns", "file:./mlruns", "file:///a/mlruns")


@pytest.fixture
def metric(tmp_path):
    return shutil.copytree(METRIC, tmp_path / "metric")


def measured(home, folder=METRIC, **changed):
    return run_config(home, evaluate={"metric": str(folder)} | changed.pop("evaluate", {}), **changed)


def rewrite(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_metric_of_the_runs_own_clips_is_taken(tmp_path):
    check_evaluation(measured(tmp_path))
    check_evaluation(measured(tmp_path, evaluate={"prompts": {"a": "A seven moving left"}}))
    check_evaluation(run_config(tmp_path, data__height=32))  # without a metric nothing is asked


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data__height": 32}, "takes clips of frames, height, width = 9x24x24, and this run has 9x32x24"),
        ({"data__frames": 12}, "and this run has 12x24x24"),
        (
            {"evaluate": {"prompts": {"a": "a cat"}}},
            "'a cat' names no digit that the metric knows",
        ),
        ({"evaluate": {"prompts": {"a": "a seven"}}}, "names no direction"),
        ({"evaluate": {"every": 1}, "train__steps": 10**8}, "evaluate.every = 1: 100,000,000 validations"),
    ],
)
def test_what_it_cannot_judge_is_refused(tmp_path, changed, message):
    with pytest.raises(ConfigError, match=message):
        check_evaluation(measured(tmp_path, **changed))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": [9, 24]}, "config.json: size.2: Field required"),
        ({"heads": {}}, "config.json: heads"),
        ({"heads": {"digit": []}}, "config.json: heads.digit"),
        ({"channels": [10, 20, -1]}, "config.json: channels.2"),
        ({"channels": [10, 20, 32]}, "trunk.4.weight is .* belong to different models"),
        ({"size": [9, 8, 8]}, "its layers take no clips of"),
    ],
)
def test_a_metric_that_is_none_is_refused(tmp_path, metric, values, message):
    rewrite(metric, **values)
    with pytest.raises(ConfigError, match=rf"evaluate.metric = .*{message}"):
        check_evaluation(measured(tmp_path, metric))


@pytest.mark.parametrize("window", [1, 3, 4])
def test_the_smallest_clips_of_a_metric_are_those_that_its_layers_take(tmp_path, window):
    for side in range(1, 18):
        metric = Metric({"digit": ["one"]}, (3, side, 40), window=window)
        metric.save(tmp_path)
        try:
            metric.trunk(torch.zeros(1, 3, 3, side, 40))
        except RuntimeError:
            with pytest.raises(ConfigError, match="its layers take no clips of"):
                Metric.checked(tmp_path, "evaluate.metric")
        else:
            assert Metric.checked(tmp_path, "evaluate.metric").size == (3, side, 40)


@pytest.mark.parametrize("content", [b"", b"x", (METRIC / "model.safetensors").read_bytes()[:-1]])
def test_broken_weights_of_a_metric_are_named(tmp_path, metric, content):
    (metric / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"evaluate.metric = .*model\.safetensors is no whole safetensors file"):
        check_evaluation(measured(tmp_path, metric))


def test_weights_of_another_metric_are_named(tmp_path, metric):
    save_file({"other": torch.zeros(1)}, metric / "model.safetensors")
    with pytest.raises(ConfigError, match="its weights lack 10 of 10 tensors"):
        check_evaluation(measured(tmp_path, metric))
    (metric / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no model\.safetensors in"):
        check_evaluation(measured(tmp_path, metric))


def cache(*captions, videos=True):
    names = [f"{i}.mp4" if videos else "" for i in range(len(captions))]
    index = pa.table({"video": names, "dataset": [0] * len(names)})
    return SimpleNamespace(index=index, by_caption=lambda: dict(zip(captions, range(len(captions)), strict=True)))


def test_the_data_is_looked_at_before_the_training(tmp_path):
    good = cache("a seven moving left", "a two moving up")
    check_cache(measured(tmp_path), good)
    for bad, message in (
        (cache("a seven moving left"), "data has 1 clips; give 2 clips or more"),
        (cache("a seven moving left", "a cat"), "captions of the data: 'a cat' names no digit"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_cache(measured(tmp_path), bad)
        check_cache(measured(tmp_path, evaluate={"enabled": False}), bad)  # such a run measures nothing
        check_cache(run_config(tmp_path), bad)


def test_a_student_that_is_never_updated_is_refused(tmp_path):
    check_updates(run_config(tmp_path, train__steps=5))
    with pytest.raises(ConfigError, match=r"train\.steps = 4: .* in step 5 \(updates repeat every 5 steps\); raise"):
        check_updates(run_config(tmp_path, train__steps=4))
    check_updates(run_config(tmp_path, train__steps=1, method__name="dmd_warm_start"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": {"name": "flow_matching", "sampling_guidance": 0.5}}, "guidance_scale = 0.5"),
        (
            {"method__timesteps": [1000, 999.9999999], "method__warp_denoising_step": True, "method__flow_shift": 1e9},
            "its sampling steps are at the timesteps 1000, 1000, which must fall",
        ),
        (
            {"model__family": "ltx", "method__name": "self_forcing"},
            "samples neither chunks nor two experts",
        ),
    ],
)
def test_a_recipe_that_no_export_replays_is_refused(tmp_path, changed, message):
    own = {"roles": {"student": {"optimizer": {"learning_rate": 1}}}} if "method" in changed else {}
    with pytest.raises(ValueError, match=message):
        check_export(run_config(tmp_path, model__path=str(DIGITS), **changed, **own))


def test_the_place_of_the_export_must_be_free(tmp_path):
    config = run_config(tmp_path, model__path=str(DIGITS))
    check_export(config)
    config.run_dir.mkdir(parents=True)
    place = config.run_dir / "export"
    place.write_text("")
    with pytest.raises(ValueError, match="is a file, and an export is a folder"):
        check_export(config)
    place.unlink()
    place.mkdir()
    check_export(config)
    (place / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="is no export"):
        check_export(config)


def test_folders_are_tried_and_left_as_they_were(tmp_path):
    config = run_config(tmp_path, data__cache_dir=str(tmp_path / "a/b/cache"))
    check_folders(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["output_dir", "data__cache_dir"])
@pytest.mark.parametrize("kind", ["file", "below a file", "dangling", "device", "long"])
def test_what_is_no_folder_is_refused(tmp_path, key, kind):
    place = tmp_path / "place"
    if kind == "dangling":
        place.symlink_to("nowhere")
    elif kind in ("file", "below a file"):
        place.write_text("")
    there = {"file": place, "below a file": place / "x", "dangling": place, "device": "/dev/null/x"}
    given = there.get(kind, tmp_path / (300 * "x"))
    with pytest.raises(ConfigError, match=rf"^{key.replace('__', '.')} = .*cannot be written"):
        check_folders(run_config(tmp_path, **{key: str(given)}))


def test_a_full_disk_is_refused(tmp_path):
    with file_limit(100), pytest.raises(ConfigError, match="output_dir = .*cannot be written: File too large"):
        check_folders(run_config(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="Permission denied"):
        check_folders(run_config(tmp_path))


SQLITE = (
    r"use sqlite:///(/a/|~/|)mlruns/mlflow\.db, or http://HOST:5000 for a server, or set MLFLOW_ALLOW_FILE_STORE=true"
)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        *((uri, r"\w+:\.\.\.: MLflow has no such store; use http") for uri in ("nonsense://x", "s3://b/x", "uc:p")),
        *(
            (uri, r"localhost:5000: .*; write http://localhost:5000$")
            for uri in ("localhost:5000", "u:pw@localhost:5000/")
        ),
        ("127.0.0.1:80/mlflow", r"127\.0\.0\.1:80: .*; write http://127\.0\.0\.1:80$"),
        *((uri, rf"{uri}: MLflow keeps new runs in no folder of files; {SQLITE}") for uri in FOLDERS),
    ],
)
def test_a_tracking_store_that_mlflow_lacks_is_refused(uri: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow itself refuses a folder unless the environment allows it."""
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    config = SimpleNamespace(track=SimpleNamespace(uri=uri), data=SimpleNamespace(parts=()))
    with pytest.raises(ConfigError, match=rf"^track\.uri = {message}"):
        check_track(config)  # type: ignore[arg-type]


@pytest.mark.parametrize("allows", [False, True])
def test_mlflow_itself_takes_a_folder_only_where_the_environment_allows(
    allows: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", str(allows).lower())
    uri = f"file:{tmp_path}/mlruns"
    with nullcontext() if allows else pytest.raises(MlflowException, match="maintenance mode"):
        MlflowClient(uri, uri).search_experiments()
    with nullcontext() if allows else pytest.raises(ConfigError, match="MLFLOW_ALLOW_FILE_STORE=true"):
        check_store(uri)


@pytest.mark.parametrize(
    "uri",
    ["", "databricks", "sqlite:////a/b.db", "http://h:5000", "http://u:pw@h:5000", "postgresql+psycopg2://u@h/db"],
)
def test_one_that_it_has_is_not(uri: str) -> None:
    check_track(SimpleNamespace(track=SimpleNamespace(uri=uri), data=SimpleNamespace(parts=())))  # type: ignore[arg-type]
