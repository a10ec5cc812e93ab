"""A sweep end to end: a trial, its rungs, its MLflow run, the best as a configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from ray_distill.checkpoint.layout import folder_name
from ray_distill.cli import main
from ray_distill.config import RunConfig, load_config
from tests.checkpoints import write
from tests.ray.conftest import ROOT, Home

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


@dataclass(frozen=True)
class Sweep:
    """A sweep that has ended: its folder, its file and its trials, the best first."""

    out: Path
    config: Path
    trials: list[dict[str, Any]]


def run_sweep(home: Home, folder: Path, name: str, trials: int, capsys: pytest.CaptureFixture[str]) -> Sweep:
    """The base first, then a rate that ruins the student; no file and no line of output has the planted secret."""
    secret = "track.register_as=password=planted-7"
    config = write_sweep(folder, home.overrides(name, secret), name=name, trials=trials, seed=0)
    assert main(["tune", str(config)]) == 0
    out = home.folder / "output" / name
    said = capsys.readouterr()
    assert f"{trials} trials, 2 at a time" in said.err and str(out / "best.yaml") in said.out
    files = [path for path in (*out.rglob("*"), home.folder / "mlruns/mlflow.db") if path.is_file()]
    assert len(files) > 20 and [path for path in files if b"planted-7" in path.read_bytes()] == []

    ran = json.loads((out / "trials.json").read_text())
    assert len(ran) == trials and ran[0]["status"] == "done" and ran[0]["point"] == {RATE: 0.0003}
    assert [row["step"] for row in ran[0]["rows"]] == [4, 8]
    status, nested = children(home.uri, name)
    ended = {trial["name"]: "FINISHED" if trial["status"] == "done" else "KILLED" for trial in ran}
    assert status == "FINISHED" and nested == ended
    return Sweep(out, config, ran)


def test_a_sweep_ends_with_its_best_and_touches_no_other_run(
    local_ray: None,
    home: Home,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One trial; slow/test_sweep compares two."""
    # In a clone whose own quick start has run, with other settings than the sweep's base has.
    (tmp_path / "clone").mkdir()
    monkeypatch.chdir(tmp_path / "clone")
    foreign = tmp_path / "clone/output/quickstart"
    plant(load_config(ROOT / "configs/quickstart.yaml", environment={}).config)
    before = {path: path.read_bytes() for path in foreign.rglob("*") if path.is_file()}
    assert before

    sweep = run_sweep(home, tmp_path, "sweep", 1, capsys)
    written = load_config(sweep.out / "best.yaml", environment={}).config
    assert written.name == "sweep_best" and written.roles["student"].optimizer.learning_rate == 0.0003
    assert main(["check", str(sweep.out / "best.yaml")]) == 0
    assert (sweep.out / "parallel.png").read_bytes().startswith(b"\x89PNG")

    assert main(["tune", str(sweep.config), "trials=9"]) == 2
    assert "trials was 1 and is 9. Choose another name" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in foreign.rglob("*") if path.is_file()} == before
