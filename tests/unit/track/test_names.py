"""The groups of MLflow's metrics, and where a run says that it comes from."""

import subprocess

import pytest

from ray_distill.methods import METHODS
from ray_distill.track.names import commit, grouped, source_tags, summary, tables


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("student_grad_norm", "student/grad_norm"),
        ("fake_score_loss", "fake_score/loss"),
        ("fake_score_lr", "fake_score/lr"),
        ("dmd_loss", "student/dmd_loss"),
        ("dmd_gradient", "student/dmd_gradient"),
        ("gan_loss", "student/gan_loss"),
        ("seconds_per_step", "train/seconds_per_step"),
        ("studentship", "train/studentship"),
        ("evaluate/student/frechet", "evaluate/student/frechet"),
    ],
)
def test_a_name_goes_to_its_role(name, group):
    assert grouped(name, METHODS["dmd"].roles, "dmd") == group


def test_a_role_that_begins_with_another_keeps_its_names():
    assert grouped("student_ema_distance", ("student", "student_ema")) == "student_ema/distance"


def test_a_report_is_told_by_sampler_and_by_run():
    report = {
        "student": {"frechet": 31.5, "nfe": 3, "accuracy": None, "timesteps": [1000.0]},
        "phases": {"prepare: videos to latents": 90.1, "train": 144.7},
        "wall_seconds": 357.0,
        "prompt": "a seven",
        "missed": [],
    }
    assert summary(report) == {"summary/frechet": 31.5, "summary/nfe": 3, "summary/wall_seconds": 357.0}


def test_all_numbers_of_a_report_are_in_its_tables():
    report = {
        "teacher_many": {"frechet": 22.0, "nfe": 64},
        "student": {"frechet": 31.5, "nfe": 3, "accuracy": None, "motion": 0.3, "timesteps": [1000.0]},
        "ratios": {"motion_ratio": {"value": 0.9, "low": 0.8, "high": 1.0}},
        "phases": {"prepare: videos to latents": 90.1},
        "student_updates": 140,
        "prompt": "a seven",
        "missed": [],
    }
    assert tables(report) == {
        "evaluation": {
            "columns": ["sampler", "frechet", "nfe", "motion"],
            "data": [["teacher_many", 22.0, 64, None], ["student", 31.5, 3, 0.3]],
        },
        "comparisons": {
            "columns": ["of", "measure", "value", "low", "high"],
            "data": [["ratios", "motion_ratio", 0.9, 0.8, 1.0]],
        },
        "run": {"columns": ["number", "value"], "data": [["seconds of prepare", 90.1], ["student updates", 140]]},
    }
    assert tables({"prompt": "a seven"}) == {}


def test_the_commit_is_the_working_directory_s_unless_one_is_given(tmp_path, monkeypatch):
    monkeypatch.delenv("GIT_COMMIT", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == "" and "mlflow.source.git.commit" not in source_tags()
    author = ["-c", "user.name=ann", "-c", "user.email=ann@localhost"]
    for command in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *command], check=True)
    assert len(commit()) == 40
    monkeypatch.setenv("GIT_COMMIT", "c0ffee")
    assert source_tags()["mlflow.source.git.commit"] == "c0ffee"


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.delenv("GIT_COMMIT", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert commit() == ""
