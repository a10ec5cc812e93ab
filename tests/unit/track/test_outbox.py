"""What MLflow misses is kept and sent later, once, whatever happens in between."""

import json
import logging
import shutil
import socket
import time

import pytest
from PIL import Image

from ray_distill.cli import main
from ray_distill.config import ConfigError
from ray_distill.track import sender
from ray_distill.track import tracker as module
from ray_distill.track.outbox import FILE, Outbox
from ray_distill.track.sender import RUN, Sender
from ray_distill.track.sync import sync
from ray_distill.track.tracker import Tracker
from tests.unit.disks import file_limit


@pytest.fixture
def server(monkeypatch):
    """``server["up"] = False`` is an outage."""
    state, connect = {"up": True}, sender.quiet_client

    class Client:
        def __init__(self, uri):
            self._client = connect(uri)

        def __getattr__(self, name):
            if not state["up"]:
                raise ConnectionError("down: https://ann:hunter2@host")
            return getattr(self._client, name)

    monkeypatch.setattr(sender, "quiet_client", Client)
    return state


def settle(tracker):
    """Until the thread has done what it was asked for."""
    assert tracker._courier.wait(tracker._courier.nudge(), 60)


def client_of(uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def a_run(uri, folder, name):
    """All that a run tells, in its folder."""
    (folder / "student").mkdir(parents=True, exist_ok=True)
    (folder / "student" / "config.json").write_text("{}")
    (folder / "report.json").write_text("{}")
    Image.new("RGB", (8, 8)).save(folder / "sheet.png")
    tracker = Tracker.start(uri, "digits", name, {"lr": 1e-3}, {"method": "dmd"}, folder=folder)
    tracker.dataset("digits", folder / "manifest.jsonl", "0123456789abcdef", {"clips": 60})
    for step in range(5):
        tracker.metrics(step, {"student/loss": 1 / (step + 1), "student/norm": float("nan")})
    tracker.system({"node_0/cpu_utilization_percentage": 12.5})
    tracker.tags({"node_0": "head"})
    tracker.picture(folder / "sheet.png", 4)
    tracker.artifact(folder / "report.json")
    tracker.register(folder / "student", name, "newest")
    return tracker


def told(uri, name):
    """What MLflow has of it, in numbers that a second sending would change."""
    client = client_of(uri)
    (run,) = client.search_runs(
        [client.get_experiment_by_name("digits").experiment_id], f"attributes.run_name = '{name}'"
    )
    keys = ("student/loss", "student/norm", "system/node_0/cpu_utilization_percentage")
    history = {key: [point.step for point in client.get_metric_history(run.info.run_id, key)] for key in keys}
    return {
        "status": run.info.status,
        "params": run.data.params,
        "tags": {key: run.data.tags[key] for key in ("method", "node_0")},
        "steps": [sorted(history[key]) for key in keys[:2]],
        "loads": len(history[keys[2]]),
        "files": sorted(item.path for item in client.list_artifacts(run.info.run_id)),
        "images": len(client.list_artifacts(run.info.run_id, "images")),
        "versions": len(client.search_model_versions(f"name='{name}'")),
        "data": [given.dataset.digest for given in run.inputs.dataset_inputs],
    }


WHOLE = {
    "status": "FINISHED",
    "params": {"lr": "0.001"},
    "tags": {"method": "dmd", "node_0": "head"},
    "steps": [[0, 1, 2, 3, 4]] * 2,
    "loads": 1,
    "files": ["images", "report.json", "student"],
    "images": 2,  # MLflow keeps a small one beside each
    "versions": 1,
    "data": ["0123456789abcdef"],
}


def test_an_outage_of_the_whole_run_is_made_up_for_once(uri, server, tmp_path, caplog, capsys):
    folder = tmp_path / "run"
    server["up"] = False
    a_run(uri, folder, "missed").end("FINISHED")
    assert f"ray-distill track sync {folder}" in caplog.text and len(caplog.records) == 2
    assert "hunter2" not in caplog.text and not (folder / RUN).exists()
    copy = shutil.copy(folder / FILE, tmp_path / "copy")
    assert sync(folder) == (0, 13)  # still away
    server["up"] = True
    assert main(["track", "sync", str(folder)]) == 0
    assert "13 calls were sent to MLflow, 0 wait" in capsys.readouterr().out
    assert told(uri, "missed") == WHOLE and not (folder / FILE).exists()
    assert sync(folder) == (0, 0)  # again: nothing is left to send
    shutil.copy(copy, folder / FILE)  # a process that died after it had sent all
    assert sync(folder) == (13, 0)
    assert told(uri, "missed") == WHOLE


def test_a_server_that_comes_back_gets_all_from_the_run_itself(uri, server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "COOL_DOWN_S", 0.0)
    server["up"] = False
    tracker = a_run(uri, tmp_path, "late")
    assert tracker.run_id is None and tracker.left == 12
    server["up"] = True
    tracker.tags({"node_0": "head"})
    settle(tracker)
    assert tracker.run_id and tracker.left == 0
    assert json.loads((tmp_path / RUN).read_text())["run_id"] == tracker.run_id
    tracker.end("FINISHED")
    assert told(uri, "late") == WHOLE


def test_a_run_that_resumes_sends_what_the_one_before_could_not(uri, server, tmp_path):
    first = Tracker.start(uri, "digits", "resumed", {"lr": 1}, {}, folder=tmp_path)
    server["up"] = False
    first.metrics(0, {"loss": 1.0})
    settle(first)  # killed: no end
    server["up"] = True
    again = Tracker.start(uri, "digits", "resumed", {"lr": 1}, {}, folder=tmp_path)
    again.metrics(1, {"loss": 0.5})
    again.end("FINISHED")
    assert again.run_id == first.run_id
    points = client_of(uri).get_metric_history(first.run_id, "loss")
    assert sorted(point.step for point in points) == [0, 1]


def test_a_run_whose_driver_was_killed_is_closed(uri, tmp_path):
    tracker = Tracker.start(uri, "digits", "dead", {}, {}, folder=tmp_path)
    settle(tracker)
    assert client_of(uri).get_run(tracker.run_id).info.status == "RUNNING"
    assert sync(tmp_path) == (0, 0)
    assert client_of(uri).get_run(tracker.run_id).info.status == "KILLED"


def test_what_cannot_be_sent_does_not_hold_up_the_rest(uri, tmp_path, caplog):
    tracker = Tracker.start(uri, "digits", "gone", {}, {}, folder=tmp_path)
    tracker.artifact(tmp_path / "gone.json")
    tracker.metrics(0, {"loss": 1.0})
    tracker.end("FINISHED")
    assert f"does not take artifact of this run (FileNotFoundError: {tmp_path}/gone.json is gone)" in caplog.text
    assert client_of(uri).get_run(tracker.run_id).data.metrics == {"loss": 1.0} and tracker.left == 0


def test_a_server_that_accepts_and_never_answers_costs_the_stated_seconds(tmp_path, monkeypatch, caplog):
    """Steps wait for nothing; the start and the end no longer than they say."""
    for name, value in (("TIMEOUT", "60"), ("MAX_RETRIES", "1")):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    monkeypatch.setattr(module, "START_WAIT_S", 0.3)
    monkeypatch.setattr(module, "END_WAIT_S", 0.3)
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        dead.listen()
        began = time.monotonic()
        tracker = Tracker.start(
            f"http://ann:hunter2@127.0.0.1:{dead.getsockname()[1]}", "digits", "run", {}, {}, folder=tmp_path
        )
        assert time.monotonic() - began < 20
        began = time.monotonic()
        for step in range(200):
            tracker.metrics(step, {"loss": 1.0})
            tracker.videos(tmp_path, step)
        assert time.monotonic() - began < 5  # nothing waits: 400 lines in a file
        tracker.end("FINISHED")
        assert time.monotonic() - began < 25
        assert tracker.left == 402 and "no answer within 0 s" in caplog.text
    kept = (tmp_path / FILE).read_text()
    assert "hunter2" not in kept + caplog.text
    with pytest.raises(
        ConfigError, match=r"no file keeps its whole tracking URI \(http://ann:\*\*\*@127.*; add track\.uri="
    ):
        sync(tmp_path)


def test_a_full_disk_leaves_it_in_memory(uri, tmp_path, caplog):
    tracker = Tracker.start(uri, "digits", "full", {}, {}, folder=tmp_path)
    with file_limit(10):
        outbox = Outbox(tmp_path / "other")
        for step in range(3):
            outbox.add({"call": "metrics", "step": step})
    assert len(outbox) == 3 and [r.levelno for r in caplog.records] == [logging.WARNING]
    tracker.end("FINISHED")


def test_a_run_that_is_open_is_one_that_its_folder_names(uri, tmp_path, monkeypatch):
    """A driver that is killed right after its start goes on with the same run."""
    known = []
    monkeypatch.setattr(Sender, "_remember", lambda self: known.append(self.opened))
    Tracker.start(uri, "digits", "killed", {}, {}, folder=tmp_path).end("FINISHED")
    assert known == [False]


def test_a_torn_last_line_was_not_kept_yet(tmp_path):
    outbox = Outbox(tmp_path)
    outbox.add({"call": "tags", "values": {"a": "b"}})
    with (tmp_path / FILE).open("a") as file:
        file.write('{"call": "met')
    again = Outbox(tmp_path)
    again.add({"call": "end", "at": 1, "status": "FINISHED"})
    assert [entry["call"] for entry in Outbox(tmp_path).ahead(1)] == ["tags"] and len(Outbox(tmp_path)) == 2


def test_a_machines_load_is_not_kept_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("ray_distill.track.outbox.SYSTEM_BYTES", 100)
    outbox = Outbox(tmp_path)
    for step in range(50):
        outbox.add({"call": "metrics", "step": step}, dispensable=step % 2 == 0)
    assert 25 <= len(outbox) < 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sync", "{}", "track.uri=localhost:5000"], "write http://localhost:5000"),
        (["sync", "{}", "train.steps=3"], "write: ray-distill track sync RUN"),
        (["sync", "{}/none"], "none: no such folder"),
        (["sync", "{}"], "no run was tracked in this folder"),
    ],
)
def test_a_mistake_says_what_to_write(tmp_path, capsys, arguments, message):
    assert main(["track", *(part.format(tmp_path) for part in arguments)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("torn", ["middle", "glued", "zeros", "end"])
def test_a_run_starts_and_syncs_whatever_is_torn(uri, server, tmp_path, caplog, torn):
    """A full disk and a power cut leave half lines, rows behind them, blocks of zeros and empty files."""
    server["up"] = False
    tracker = Tracker.start(uri, "digits", f"torn-{torn}", {"lr": 1}, {}, folder=tmp_path)
    tracker.metrics(0, {"loss": 1.0})
    tracker.metrics(1, {"loss": 0.5})
    settle(tracker)
    lines = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    half = lines[1][: len(lines[1]) // 2]
    middle = {"middle": half + b"\n" + lines[1], "glued": half + lines[1], "zeros": b"\0" * 40 + b"\n" + lines[1]}
    (tmp_path / FILE).write_bytes(lines[0] + middle.get(torn, lines[1]) + lines[2] + (half if torn == "end" else b""))
    (tmp_path / RUN).write_bytes(b"")
    server["up"] = True
    assert sync(tmp_path) == (3, 0)
    assert f"{tmp_path / FILE}: torn or damaged lines" in caplog.text and f"{tmp_path / RUN} is torn" in caplog.text
    run_id = json.loads((tmp_path / RUN).read_text())["run_id"]
    assert sorted(point.step for point in client_of(uri).get_metric_history(run_id, "loss")) == [0, 1]


@pytest.mark.parametrize(
    "entry",
    [
        {"call": "metrics", "id": "1", "at": 1, "step": 0},
        {"call": "metrics", "id": "1", "at": 1, "step": 0, "values": [1.0]},
        {"call": "tags", "id": "1", "at": 1, "values": None},
        {"call": "end", "id": "1", "at": 1},
        {"call": "of_another_version", "id": "1", "at": 1},
        {"call": ["tags"], "id": "1", "at": 1},
    ],
)
def test_entries_that_no_call_wrote_are_left_out_and_named(uri, tmp_path, caplog, entry):
    """They end no sending thread, and what stands behind them is sent."""
    Outbox(tmp_path).add(entry)
    Outbox(tmp_path).add({"call": "metrics", "id": "2", "at": 2, "step": 0, "values": {"loss": 1.0}})
    tracker = Tracker.start(uri, "digits", "odd", {}, {}, folder=tmp_path)
    tracker.end("FINISHED")
    assert f"{tmp_path / FILE}: number of entries left out, which are damaged or of another version: 1" in caplog.text
    assert client_of(uri).get_run(tracker.run_id).data.metrics == {"loss": 1.0}
    assert not (tmp_path / FILE).exists()


def test_what_waits_of_a_lost_run_is_not_sent_to_another(uri, tmp_path):
    Outbox(tmp_path).add({"call": "metrics", "id": "1", "at": 1, "step": 0, "values": {"loss": 1.0}})
    (tmp_path / RUN).write_text("")
    with pytest.raises(ConfigError, match=r"its run\.json is lost; repeat the command"):
        sync(tmp_path, uri)
    again = Tracker.start(uri, "digits", "found", {}, {}, folder=tmp_path)
    again.end("FINISHED")
    assert client_of(uri).get_run(again.run_id).data.metrics == {"loss": 1.0}


def test_the_end_of_an_earlier_session_does_not_end_the_run_that_goes_on(uri, server, tmp_path):
    first = Tracker.start(uri, "digits", "again", {}, {}, folder=tmp_path)
    server["up"] = False
    first.metrics(0, {"loss": 1.0})
    first.end("KILLED")
    server["up"] = True
    again = Tracker.start(uri, "digits", "again", {}, {}, folder=tmp_path)
    settle(again)
    assert again.left == 0 and client_of(uri).get_run(again.run_id).info.status == "RUNNING"
    again.end("FINISHED")
    assert client_of(uri).get_run(first.run_id).info.status == "FINISHED"


def test_rows_of_a_full_disk_are_kept_when_it_has_room_again(tmp_path):
    outbox = Outbox(tmp_path)
    with file_limit(10):
        outbox.add({"call": "metrics", "at": 1, "step": 0, "values": {}})
    outbox.add({"call": "metrics", "at": 1, "step": 1, "values": {}})
    assert [entry["step"] for entry in Outbox(tmp_path).ahead(9)] == [0, 1]
