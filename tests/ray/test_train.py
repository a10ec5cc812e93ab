"""The main job on a real Ray: trained, killed, stopped, resumed, measured, exported, tracked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import torch
from mlflow import MlflowClient

from docs import exits
from ray_distill.checkpoint import Checkpoint, latest
from ray_distill.cli import main
from ray_distill.config import load_config
from ray_distill.evaluate.compare import evaluate
from ray_distill.evaluate.processes import APART, OWN
from ray_distill.train.launch import make_cache
from tests.checkpoints import write
from tests.ray.conftest import MEASURED, ROOT, STEPS, TOKEN, Home, read_rows
from tests.unit.report.runs import Page


def tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {
        f"{role}/{kind}/{name}": tensor
        for role in ("student", "fake_score")
        for kind in ("weights", "exp_avg", "exp_avg_sq", "ema")
        for name, tensor in checkpoint.tensors(role, kind).items()
    }


def assert_equal_runs(one: Path, other: Path) -> None:
    """Same parameters, moments, averages, counters and logged series, bit for bit."""
    a, b = latest(one), latest(other)
    assert a is not None and b is not None
    assert (a.step, a.state["roles"]) == (b.step, b.state["roles"])
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    assert read_rows(one) == read_rows(other)


def test_a_run_leaves_numbers_pictures_videos_and_a_student(straight: Path) -> None:
    run = straight
    report = json.loads((run / "report.json").read_text())
    for name in ("teacher_many", "teacher_same_nfe", "teacher_same_steps_guided", "student_before", "student"):
        row = report[name]
        assert row["frechet"] > 0 and 0 <= row["accuracy"] <= 1 and row["seconds_per_video"] > 0
    assert (report["student"]["nfe"], report["teacher_many"]["nfe"]) == (3, 8)
    assert (report["steps"], report["student_updates"], report["seeds"]) == (STEPS, STEPS // 2, 1)
    assert report["wall_seconds"] > 0 and 0.1 < report["memory_gib"] < 8
    for picture in ("contact_sheet.png", "losses.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")
    assert len(list((run / "videos/student").glob("*.mp4"))) == 6
    page = Page((run / "report.html").read_text())
    assert page.tags.count("video") == 5 * 6 + 2 * 6  # samplers by prompts, and two validations
    assert f"trained to its last step, {STEPS}" in page.line and "a five moving down" in page.line
    assert f"train.steps {STEPS} $RAY_DISTILL_TRAIN__STEPS" in page.line and "seed 0 default" in page.line
    assert "motion ratio" in page.line and "seconds a step" in page.line and "a checkpoint, GB 0.0" in page.line
    assert all(address.startswith("data:") for address in page.addresses)
    assert {path.name for path in (run / "export").iterdir()} >= {
        "transformer",
        "scheduler",
        "recipe.json",
        "sample.py",
    }


def test_a_student_is_measured_after_each_of_its_steps(
    straight: Path, home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last as the run's own report has it."""
    monkeypatch.chdir(home.folder)
    for name, value in home.environment().items():
        monkeypatch.setenv(name, value)
    exits.main(["configs/quickstart.yaml"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    student = json.loads((straight / "report.json").read_text())["student"]
    assert [row[0] for row in rows] == ["exit", "1", "2", "3"]
    assert rows[3][1:] == [f"{student['frechet']:.1f}", f"{student['accuracy']:.3f}", f"{student['diversity']:.2f}"]
    assert len({tuple(row[1:]) for row in rows[1:]}) == 3


ACTORS = """
import ray
from ray_distill.data.feed.stream import start_actors
ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
start_actors()
print(*sorted(actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)))
print(ray.cluster_resources()["CPU"] == ray.available_resources()["CPU"])
"""


def test_ray_datas_actors_start_before_its_first_dataset() -> None:
    """On a Ray of its own: on the others' a dataset has been read before."""
    alone = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    told = subprocess.run([sys.executable, "-c", ACTORS], env=alone, capture_output=True, text=True, timeout=120)
    assert told.stdout.splitlines() == ["AutoscalingCoordinator datasets_stats_actor", "True"], told.stderr
    assert "Dataset" not in told.stderr, "a plan of Ray Data's on the terminal"


def test_the_checkpoint_counts_each_role(straight: Path) -> None:
    last = latest(straight)
    assert last is not None
    assert last.state["roles"] == {
        "student": {"updates": STEPS // 2, "skipped": 0},
        "fake_score": {"updates": STEPS, "skipped": 0},
    }
    rows = read_rows(straight)
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert all("fake_score_loss" in row for row in rows)
    assert [row["step"] for row in rows if "dmd_loss" in row] == list(range(1, STEPS, 2))
    assert not [path for path in straight.rglob("*") if path.suffix in (".pt", ".pkl", ".bin", ".pickle")]


def test_mlflow_holds_the_run(straight: Path, home: Home) -> None:
    client = MlflowClient(home.uri)
    (run,) = client.search_runs(
        [client.get_experiment_by_name("ray_distill").experiment_id], "attributes.run_name = 'quickstart'"
    )
    assert run.info.status == "FINISHED"
    assert run.data.params["method.name"] == "dmd" and run.data.params["train.steps"] == str(STEPS)
    assert len(client.get_metric_history(run.info.run_id, "fake_score/loss")) == STEPS
    assert run.data.metrics["summary/frechet"] > 0
    single = [name for name in run.data.metrics if len(client.get_metric_history(run.info.run_id, name)) == 1]
    assert {name.partition("/")[0] for name in single} <= {"summary", "system", "validation"}
    assert run.data.tags["method"] == "dmd" and run.data.tags["steps"] == str(STEPS)
    assert TOKEN not in f"{run.data.params}{run.data.tags}"
    assert "system/node_0/cpu_utilization_percentage" in run.data.metrics
    assert run.data.metrics["validation/frechet"] > 0 and "FD" in run.data.tags["mlflow.note.content"]
    assert [given.dataset.digest for given in run.inputs.dataset_inputs]
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"report.json", "report.html", "images", "losses.png", "videos", "student"} <= artifacts
    played = client.list_artifacts(run.info.run_id, f"videos/step_{STEPS // 2:06d}")
    assert len([item for item in played if item.path.endswith(".mp4")]) == 6
    assert client.get_model_version_by_alias("quickstart", "newest").run_id == run.info.run_id
    model = client.get_registered_model("quickstart")
    assert "student before distillation" in model.description and f"/runs/{run.info.run_id})" in model.description
    tables = {item.path for item in client.list_artifacts(run.info.run_id, "tables")}
    assert tables == {f"tables/{name}.json" for name in ("evaluation", "comparisons", "run")}
    pairs = client.list_artifacts(run.info.run_id, f"videos/step_{STEPS:06d}/beside_teacher")
    assert len([item for item in pairs if item.path.endswith(".mp4")]) == 6


def test_a_student_with_shuffled_weights_misses_every_goal(straight: Path, home: Home, tmp_path: Path) -> None:
    goals = "evaluate.goals={frechet_ratio: 1.15, frechet_margin: 4, accuracy: 0.9}"
    config = load_config(ROOT / "configs/quickstart.yaml", home.overrides("quickstart", *MEASURED, goals))
    last = latest(config.config.run_dir)
    assert last is not None
    generator = torch.Generator().manual_seed(0)

    def shuffle(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].reshape(tensor.shape)

    averages = last.tensors("student", "ema").items()
    shuffled = [("student", f"ema/{name}", shuffle(tensor)) for name, tensor in averages]
    write(tmp_path / "shuffled", shuffled, last.state, 0, 1, lambda part: [part])
    report = evaluate(config.config, make_cache(config.config), tmp_path / "shuffled", tmp_path)
    assert len(report["missed"]) == 3, report


def test_no_other_task_runs_in_the_processes_of_an_evaluation(local_ray: None) -> None:
    def process() -> tuple[int, bool]:
        return os.getpid(), OWN in os.environ

    task = ray.remote(process)
    own = dict(ray.get([task.options(**APART).remote() for _ in range(4)]))
    others = dict(ray.get([task.remote() for _ in range(4)]))
    assert all(own.values()) and not any(others.values()) and not own.keys() & others.keys()


def test_another_run_under_the_same_name_is_refused(straight: Path, home: Home, capsys) -> None:
    arguments = home.overrides("quickstart", "method.student_interval=3")
    assert main(["train", "configs/quickstart.yaml", *arguments]) == 2
    assert "method.student_interval was 2 and is 3" in capsys.readouterr().err


def test_a_preflight_samples_the_teacher_as_diffusers_does(
    straight: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    within = "evaluate.preflight.within={motion: {at_least: 9}}"
    more = [*MEASURED, "evaluate.pictures=2", "evaluate.preflight.cycles=0", within]
    assert main(["preflight", "configs/quickstart.yaml", *home.overrides("looked", *more)]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("ray-distill preflight: the teacher's motion is 0.")
    assert "grey" in said.out and "is static" not in said.out and "guidance u + s (c - u), s = 1.5" in said.out
    folder = home.folder / "output/looked/preflight"
    numbers = json.loads((folder / "preflight.json").read_text())
    assert 0 <= numbers["difference"] < 1e-4 and numbers["teacher"]["nfe"] == 8
    assert numbers["clips_motion"]["clips"] > 0 and numbers["clips_motion"]["median"] > 0.05
    assert numbers["tokens"] == {"median": 5, "most": 5, "taken": 8}
    assert {path.name for path in folder.iterdir()} == {"preflight.json", "contact_sheet.png", "teacher_many"}
    assert len(list((folder / "teacher_many").glob("*.mp4"))) == 2


def test_equal_seeds_give_equal_videos(straight: Path, home: Home, tmp_path: Path) -> None:
    """A video is the same alone and among those of other prompts and seeds."""
    sample = ["sample", "configs/quickstart.yaml", *home.overrides("quickstart"), "--prompt", "a seven moving left"]
    assert main([*sample, "--out", str(tmp_path / "alone.mp4")]) == 0
    assert main([*sample, "--prompt", "a two moving up", "--seed", "1", "--seed", "0", "--out", str(tmp_path)]) == 0
    alone, *several = (path.read_bytes() for path in [tmp_path / "alone.mp4", *sorted(tmp_path.glob("0*.mp4"))])
    assert len({*several}) == 4 and several[1] == alone
    assert (tmp_path / "01_a_seven_moving_left_seed0.mp4").is_file()
