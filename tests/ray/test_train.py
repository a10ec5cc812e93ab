"""The main job on a real Ray: trained, killed, stopped, resumed, measured, exported, tracked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from mlflow import MlflowClient

from ray_distill.checkpoint import Checkpoint, latest
from ray_distill.checkpoint.writer import write
from ray_distill.cli import main
from ray_distill.config import load_config
from ray_distill.evaluate.compare import evaluate
from ray_distill.train.launch import make_cache
from tests.ray.conftest import ROOT, read_rows

CONFIG = ROOT / "configs/quickstart.yaml"
Overrides = Callable[..., list[str]]


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


def run_dir(arguments: list[str]) -> Path:
    return load_config(CONFIG, arguments).config.run_dir


@pytest.fixture(scope="module")
def straight(local_ray: None, overrides: Overrides) -> list[str]:
    """Thirty steps without a disturbance, measured and exported: what every disturbed run must equal."""
    arguments = overrides(
        "straight",
        "evaluate.enabled=true",
        "evaluate.videos=40",
        "evaluate.seeds=[1]",
        "evaluate.guidance_grid=[2.0]",
        "evaluate.shift_grid=[3.0]",
        "evaluate.teacher_steps=4",
        "evaluate.goals.accuracy=0.999",
    )
    assert main(["train", str(CONFIG), *arguments]) == 1  # thirty steps do not make a student
    return arguments


def test_a_run_leaves_numbers_pictures_videos_and_a_student(straight: list[str]) -> None:
    run = run_dir(straight)
    report = json.loads((run / "report.json").read_text())
    for name in ("teacher_many", "teacher_same_nfe", "teacher_same_steps_guided", "student_before", "student"):
        row = report[name]
        assert row["frechet"] > 0 and 0 <= row["accuracy"] <= 1 and row["seconds_per_video"] > 0
    assert (report["student"]["nfe"], report["teacher_many"]["nfe"]) == (3, 8)
    assert (report["steps"], report["student_updates"], report["seeds"]) == (30, 15, 1)
    assert report["missed"] and report["wall_seconds"] > 0
    for picture in ("contact_sheet.png", "losses.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")
    assert len(list((run / "videos/student").glob("*.mp4"))) == 6
    assert {path.name for path in (run / "export").iterdir()} >= {
        "transformer",
        "scheduler",
        "recipe.json",
        "sample.py",
    }


def test_the_checkpoint_counts_each_role(straight: list[str]) -> None:
    last = latest(run_dir(straight))
    assert last is not None
    assert last.state["roles"] == {
        "student": {"updates": 15, "skipped": 0},
        "fake_score": {"updates": 30, "skipped": 0},
    }
    rows = read_rows(run_dir(straight))
    assert [row["step"] for row in rows] == list(range(30))
    assert all("fake_score_loss" in row for row in rows)
    assert [row["step"] for row in rows if "dmd_loss" in row] == list(range(1, 30, 2))
    assert not [path for path in run_dir(straight).rglob("*") if path.suffix in (".pt", ".pkl", ".bin", ".pickle")]


def test_mlflow_holds_the_run(straight: list[str]) -> None:
    config = load_config(CONFIG, straight).config
    client = MlflowClient(config.track.uri)
    (run,) = client.search_runs(
        [client.get_experiment_by_name("ray_distill").experiment_id], "attributes.run_name = 'straight'"
    )
    assert run.info.status == "FINISHED"
    assert run.data.params["method.name"] == "dmd" and run.data.params["train.steps"] == "30"
    assert len(client.get_metric_history(run.info.run_id, "fake_score_loss")) == 30
    assert run.data.metrics["evaluate/student/frechet"] > 0
    assert run.data.tags["method"] == "dmd"
    assert "system/cpu_utilization_percentage" in run.data.metrics
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"report.json", "contact_sheet.png", "losses.png", "videos", "student"} <= artifacts
    assert client.get_model_version_by_alias("straight", "newest").run_id == run.info.run_id


def test_a_student_with_shuffled_weights_misses_every_goal(straight: list[str], tmp_path: Path) -> None:
    config = load_config(CONFIG, [*straight, "evaluate.goals={frechet_ratio: 1.15, frechet_margin: 4, accuracy: 0.9}"])
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


def test_a_second_run_of_the_same_name_goes_on_where_it_stood(straight: list[str], capsys) -> None:
    assert main(["train", str(CONFIG), *straight, "evaluate.enabled=false"]) == 0
    assert "straight is already trained to step 30" in capsys.readouterr().err


def test_another_run_under_the_same_name_is_refused(straight: list[str], capsys) -> None:
    assert main(["train", str(CONFIG), *straight, "method.student_interval=3"]) == 2
    assert "method.student_interval was 2 and is 3" in capsys.readouterr().err


def test_sample_and_export_use_the_newest_checkpoint(straight: list[str], tmp_path: Path, capsys) -> None:
    videos = [tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4"]
    for video, seed in zip(videos, "001", strict=True):
        prompt = ["--prompt", "a seven moving left", "--out", str(video), "--seed", seed]
        assert main(["sample", str(CONFIG), *straight, *prompt]) == 0
    a, b, c = (video.read_bytes() for video in videos)
    assert a == b != c
    assert main(["export", str(CONFIG), *straight]) == 0
    difference = float(capsys.readouterr().out.split()[-1])
    assert difference < 1e-4


def test_a_run_whose_worker_was_killed_ends_equal(straight: list[str], overrides: Overrides) -> None:
    """kill -9 after the first checkpoint; Ray starts the workers anew and they go on from it."""
    arguments = overrides("killed")
    run = run_dir(arguments)
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            time.sleep(0.05)
            if (run / "step_00000010" / "manifest.json").is_file():
                ours = psutil.Process().children(recursive=True)
                worker = next(p for p in ours if "RayTrainWorker" in " ".join(p.cmdline()))
                worker.kill()
                killed.append(worker.pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    assert main(["train", str(CONFIG), *arguments]) == 0
    thread.join(timeout=5)
    assert killed
    assert_equal_runs(run, run_dir(straight))
