"""A sweep end to end: trials beside each other, one stopped at its rung, the best as a configuration."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import ray
import yaml
from mlflow import MlflowClient

from ray_distill.checkpoint.layout import folder_name
from ray_distill.cli import main
from ray_distill.config import RunConfig, load_config
from tests.checkpoints import write
from tests.ray.conftest import ROOT, Home, wait_for
from tests.unit.report.runs import Page

RATE = "roles.student.optimizer.learning_rate"


def write_sweep(folder: Path, overrides: list[str], **more: object) -> Path:
    """The shipped sweep, shortened: the quick start's rate, or one that ruins the student."""
    tree = yaml.safe_load((ROOT / "configs/sweep_quickstart.yaml").read_text())
    values = dict(item.split("=", 1) for item in overrides)
    home = values.pop("output_dir")
    values |= {"train.workers": "1", "train.micro_batch": "8", "train.steps": "8", "evaluate.videos": "40"}
    del values["name"]
    tree |= {
        "name": "sweep",
        "base": str(ROOT / "configs/quickstart.yaml"),
        "output_dir": home,
        "overrides": {key: yaml.safe_load(value) for key, value in values.items()},
        "space": {RATE: {"choice": [0.0003, 0.3]}},
        "first_rung": 4,
        "search": "random",
        "concurrent": 2,
        **more,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def children(uri: str, sweep: str) -> tuple[str, dict[str, str]]:
    """The status of the sweep's MLflow run, and of each run nested in it by name; each must be there once."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("ray_distill")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.info.run_name == sweep]
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len({run.info.run_name for run in nested}) == len(nested)
    return parent.info.status, {run.info.run_name: run.info.status for run in nested}


def plant(config: RunConfig) -> None:
    """A checkpoint of ``config``'s run, whole and without tensors."""
    state = {"step": 700, "config": config.dump(), "data": "another", "roles": {}}
    write(config.run_dir / folder_name(700), [], state, 0, 1, lambda part: [part])


def command(process: psutil.Process) -> str:
    """Empty of one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_sweep_finds_the_rate_that_does_not_ruin_the_student(
    local_ray: None,
    home: Home,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # In a clone whose own quick start has run, with other settings than the sweep's base has.
    (tmp_path / "clone").mkdir()
    monkeypatch.chdir(tmp_path / "clone")
    foreign = tmp_path / "clone/output/quickstart"
    plant(load_config(ROOT / "configs/quickstart.yaml", environment={}).config)
    held = {path: path.read_bytes() for path in foreign.rglob("*") if path.is_file()}
    assert held

    secret = "data.negative_prompt=password=planted-7"
    config = write_sweep(tmp_path, home.overrides("sweep", secret), trials=2, seed=0)  # the base, then the bad rate
    before = ray.available_resources()["CPU"]
    assert main(["tune", str(config)]) == 0
    out = home.folder / "output/sweep"
    said = capsys.readouterr()
    assert "2 trials, 2 at a time" in said.err and str(out / "best.yaml") in said.out

    trials = json.loads((out / "trials.json").read_text())
    best, other = trials
    assert [trial["status"] for trial in trials].count("failed") == 0
    assert best["status"] == "done" and best["point"] == {RATE: 0.0003} and best["rows"][-1]["step"] == 8
    # It is stopped unless it came to the rung first, when there was nothing to compare with; tests/slow is certain.
    assert other["status"] in ("pruned", "done") and other["rows"][0]["step"] == 4
    assert other["rows"][-1]["frechet"] > best["rows"][-1]["frechet"]

    written = load_config(out / "best.yaml", environment={}).config
    assert written.name == "sweep_best" and written.roles["student"].optimizer.learning_rate == 0.0003
    assert main(["check", str(out / "best.yaml")]) == 0
    assert (out / "parallel.png").read_bytes().startswith(b"\x89PNG")
    page = Page((out / "report.html").read_text())
    assert f"{best['name']} 0.000300 8 of 8" in page.line and f"{other['name']} 0.300 " in page.line
    assert page.tags.count("video") == 2 * 6  # the students of two trials, by prompt

    files = [path for path in (*out.rglob("*"), home.folder / "mlruns/mlflow.db") if path.is_file()]
    assert len(files) > 20 and [path for path in files if b"planted-7" in path.read_bytes()] == []

    status, nested = children(home.uri, "sweep")
    ended = {trial["name"]: "FINISHED" if trial["status"] == "done" else "KILLED" for trial in trials}
    assert status == "FINISHED" and nested == ended
    # What was stopped gave back what it held.
    wait_for(lambda: ray.available_resources().get("CPU") == before, "the trials' CPUs")
    assert not [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in command(p)]

    assert main(["tune", str(config), "trials=9"]) == 2
    assert "trials was 2 and is 9. Choose another name" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in foreign.rglob("*") if path.is_file()} == held
