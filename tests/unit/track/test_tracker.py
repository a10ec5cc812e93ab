"""The tracker against a real SQLite store, against a server that is not there, and against none."""

import json
import logging
import time
from pathlib import Path

import pytest
from PIL import Image

from ray_distill.track import tracker as module
from ray_distill.track.client import close_run
from ray_distill.track.tracker import Tracker


def settle(tracker):
    """Until the thread has done what it was asked for."""
    assert tracker._courier.wait(tracker._courier.nudge(), 60)


def client_of(tracker: Tracker):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracker.uri, registry_uri=tracker.uri)


def test_a_run_is_recorded_closed_and_continued(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    uri = "sqlite:///store/mlflow.db"
    tracker = Tracker.start(uri, "digits", "first", {"lr": 5e-4, "prompt": "x" * 9000, "a[0]": None}, {"git": "abc"})
    assert tracker.run_id
    for step in range(3):
        tracker.metrics(step, {"student/loss": 1.0 / (step + 1), "fake_score/loss": float("nan")})
    student = tmp_path / "export"
    (student / "transformer").mkdir(parents=True)
    (student / "transformer" / "config.json").write_text("{}")
    (student / "README.md").write_text("card")
    tracker.artifact(student / "README.md", "pictures")
    assert tracker.register(student, "digits-student", "best", "FD 20.6") == "1"
    table = tmp_path / "evaluation.json"
    table.write_text('{"columns": ["sampler", "FD"], "data": [["student", 20.6]]}')
    tracker.table(table, "tables")
    tracker.end("FINISHED")
    tracker.metrics(9, {"late": 1.0})  # after the end: nothing, and no error

    client = client_of(tracker)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["lr"] == "0.0005" and len(run.data.params["prompt"]) == 6000 and "a_0_" in run.data.params
    assert run.data.tags["git"] == "abc"
    assert [point.step for point in client.get_metric_history(tracker.run_id, "student/loss")] == [0, 1, 2]
    assert [item.path for item in client.list_artifacts(tracker.run_id, "pictures")] == ["pictures/README.md"]
    assert "late" not in run.data.metrics

    version = client.get_model_version_by_alias("digits-student", "best")
    assert str(version.version) == "1" and version.run_id == tracker.run_id
    assert Path(version.source.removeprefix("file://"), "transformer", "config.json").read_text() == "{}"

    model = client.get_registered_model("digits-student")
    page = f"#/experiments/{run.info.experiment_id}/runs/{tracker.run_id}"
    assert model.description == version.description
    assert model.description.startswith("FD 20.6\n\n") and f"]({page})" in model.description
    assert f"`{student}`" in model.description
    assert [item.path for item in client.list_artifacts(tracker.run_id, "tables")] == ["tables/evaluation.json"]
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "tables/evaluation.json", "type": "table"}]

    again = Tracker.start(uri, "digits", "second", {"lr": 1.0, "new": 2, "prompt": "x" * 9000}, {}, tracker.run_id)
    again.metrics(3, {"student/loss": 0.1})
    assert again.register(student, "digits-student") == "2"
    again.end("KILLED")
    run = client.get_run(tracker.run_id)
    assert again.run_id == tracker.run_id and run.info.status == "KILLED"
    assert run.data.params["lr"] == "0.0005" and run.data.params["new"] == "2"
    assert len(client.get_metric_history(tracker.run_id, "student/loss")) == 4
    assert "changed parameters: lr" in caplog.text

    runs = client.search_runs([run.info.experiment_id])
    assert len(runs) == 1 and not [r for r in runs if r.info.status == "RUNNING"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "store",
        "export",
        "evaluation.json",
    }  # nothing dropped in the working directory


def test_a_run_is_described_for_those_who_browse(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_COMMIT", "c0ffee")
    params = {"track.uri": "https://ann:hunter2@host"}
    tracker = Tracker.start(uri, "browsed", "digits-dmd", params, {"method": "dmd"})
    tracker.dataset("digits", tmp_path / "manifest.jsonl", "0123456789abcdef", {"clips": 60})
    validation = tmp_path / "validation"
    (validation / "student").mkdir(parents=True)
    (validation / "student" / "00_a_seven.mp4").write_bytes(b"film")
    Image.new("RGB", (8, 8)).save(tmp_path / "sheet [a].png")
    for step in (175, 350):
        tracker.videos(validation, step)
        tracker.picture(tmp_path / "sheet [a].png", step)
    tracker.system({"node_0/cpu_utilization_percentage": 12.5})
    tracker.tags({"node_0": "head"})
    tracker.note("All goals are met.")
    tracker.end("FINISHED")

    client = client_of(tracker)
    run = client.get_run(tracker.run_id)
    assert run.data.params["track.uri"] == "https://ann:***@host"
    told = {"method": "dmd", "node_0": "head", "mlflow.note.content": "All goals are met."}
    assert told.items() <= run.data.tags.items()
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee" and run.data.tags["mlflow.user"]
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", "0123456789abcdef")
    assert json.loads(data.dataset.profile) == {"clips": 60}
    assert json.loads(data.dataset.source) == {"uri": str(tmp_path / "manifest.jsonl")}
    videos = [item.path for item in client.list_artifacts(tracker.run_id, "videos")]
    assert videos == ["videos/step_000175", "videos/step_000350"]
    (film,) = client.list_artifacts(tracker.run_id, f"{videos[0]}/student")
    assert film.path.endswith("00_a_seven.mp4") and film.file_size == 4
    images = {item.path.partition("+timestamp")[0] for item in client.list_artifacts(tracker.run_id, "images")}
    assert images == {"images/sheet _a_+step+175", "images/sheet _a_+step+350"}
    (load,) = client.get_metric_history(tracker.run_id, "system/node_0/cpu_utilization_percentage")
    assert load.value == 12.5 and 0 <= load.step < 30


def test_trials_are_nested_and_one_that_was_killed_is_closed(uri):
    sweep = Tracker.start(uri, "digits", "sweep", {}, {})
    killed, done = (Tracker.start(uri, "digits", name, {}, {}, parent_run_id=sweep.run_id) for name in ("a", "b"))
    done.end("FINISHED")
    client = client_of(sweep)
    assert client.get_run(killed.run_id).data.tags["mlflow.parentRunId"] == sweep.run_id
    assert close_run(uri, killed.run_id, "KILLED")
    assert not close_run(uri, done.run_id, "KILLED")
    sweep.end("FINISHED")
    status = [client.get_run(trial.run_id).info.status for trial in (killed, done, sweep)]
    assert status == ["KILLED", "FINISHED", "FINISHED"]


def test_a_run_that_cannot_be_closed_costs_a_warning(uri, caplog):
    assert not close_run(uri, "0" * 32, "KILLED")
    assert "could not be closed" in caplog.text


def test_metrics_of_an_outage_arrive_when_the_server_is_back(uri, monkeypatch, caplog):
    tracker = Tracker.start(uri, "digits", "run", {}, {})
    client, calls = tracker._sender._client, []

    class Down:
        def log_batch(self, *_, **__):
            calls.append(time.monotonic())
            raise ConnectionError("down")

    tracker._sender._client = Down()
    for step in range(20):
        tracker.metrics(step, {"loss": 0.0})
    settle(tracker)
    assert len(calls) == 1  # the cool-down spares the other nineteen
    tracker._sender._client = client
    tracker.end("FINISHED")
    assert len(client.get_metric_history(tracker.run_id, "loss")) == 20
    assert len([record for record in caplog.records if record.name == module.__name__]) == 1


def test_an_unknown_run_id_opens_a_new_run(uri, caplog):
    tracker = Tracker.start(uri, "digits", "run", {}, {}, run_id="0" * 32)
    tracker.end("FINISHED")
    assert tracker.run_id not in (None, "0" * 32)
    assert "does not know run" in caplog.text


def test_a_dead_server_costs_seconds_and_one_warning_without_the_password(caplog, capfd, tmp_path):
    caplog.set_level(logging.DEBUG, logger=module.__name__)
    began = time.monotonic()
    tracker = Tracker.start("http://ann:hunter2@127.0.0.1:9", "digits", "run", {"a": 1}, {})
    for step in range(50):
        tracker.metrics(step, {"loss": 1.0})
    tracker.dataset("digits", tmp_path, "0", {})
    tracker.videos(tmp_path, 1)
    tracker.artifact(tmp_path)
    assert tracker.register(tmp_path, "name") is None and tracker.run_id is None
    tracker.note("lost")
    tracker.end("FAILED")
    assert time.monotonic() - began < 15
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1 and "ann:***@127.0.0.1" in warnings[0].getMessage()
    assert "hunter2" not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("uri", ["", None])
def test_without_a_uri_nothing_happens(uri, tmp_path):
    tracker = Tracker.start(uri, "digits", "run", {"a": 1}, {})
    tracker.metrics(0, {"loss": 1.0})
    tracker.system({"node_0/cpu_utilization_percentage": 1.0})
    tracker.videos(tmp_path, 1)
    tracker.artifact(tmp_path)
    assert tracker.register(tmp_path, "name") is None and tracker.run_id is None
    tracker.end("FINISHED")
