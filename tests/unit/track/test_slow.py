"""A slow MLflow holds nothing up for long, a broken one loses nothing. Seconds are those of a clock moved by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from ray_distill.track import client, sender
from ray_distill.track import tracker as module
from ray_distill.track.client import quiet_client
from ray_distill.track.courier import Courier
from ray_distill.track.outbox import FILE, Outbox
from ray_distill.track.sync import sync
from ray_distill.track.tracker import Tracker
from tests.unit.track.slow import Clock, SlowMlflow
from tests.unit.track.test_outbox import settle


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], SlowMlflow]:
    """Each call of this MLflow takes so many seconds."""

    def make(seconds: float) -> SlowMlflow:
        clock = Clock()
        mlflow = SlowMlflow(clock, seconds)
        monkeypatch.setattr(module, "Courier", clock.courier)
        for user in (sender, client):
            monkeypatch.setattr(user, "quiet_client", lambda uri: mlflow)
        return mlflow

    return make


def a_run(folder: Path, clock: Clock, train_s: float = 600) -> tuple[Tracker, dict[str, float]]:
    """All that a run tells, and when its training began, its training ended and it ended."""
    (folder / "student").mkdir(parents=True, exist_ok=True)
    (folder / "student" / "config.json").write_text("{}")
    for name in ("report.json", "losses.png"):
        (folder / name).write_text("{}")
    Image.new("RGB", (8, 8)).save(folder / "sheet.png")
    params = {f"key.{number}": str(number) for number in range(150)}
    tracker = Tracker.start("http://slow", "digits", "run", params, {"method": "dmd"}, folder=folder)
    tracker.tags({"ray_job": "none"})
    tracker.dataset("digits", folder / "manifest.jsonl", "0123456789abcdef", {"clips": 60})
    tracker.artifact(folder / "sheet.png", "data", wait=False)
    times = {"train": clock.time}
    for step in range(int(train_s / 5)):
        tracker.system({"node_0/cpu": float(step)})
        tracker.metrics(step, {"student/loss": 1 / (step + 1)})
        clock.advance(5)
    times["trained"] = clock.time
    tracker.metrics(200, {"evaluate/student/frechet": 1.0})
    tracker.note("All goals are met.")
    tracker.artifact(folder / "report.json")
    tracker.artifact(folder / "losses.png")
    tracker.videos(folder / "student", 200)
    tracker.picture(folder / "sheet.png", 200)
    tracker.register(folder / "student", "digits", "newest")
    tracker.end("FINISHED")
    times["ended"] = clock.time
    return tracker, times


@pytest.mark.parametrize("seconds", [1, 5, 9, 29, 31, 300])
def test_a_slow_server_holds_neither_the_first_step_nor_the_end(seconds, slow, tmp_path, monkeypatch):
    fast = slow(0)
    a_run(tmp_path / "fast", fast.clock)
    server = slow(seconds)
    tracker, times = a_run(tmp_path / "run", server.clock)
    assert times["train"] <= 30 and times["trained"] == times["train"] + 600
    assert times["ended"] - times["trained"] <= module.UPLOADS_WAIT_S + module.END_WAIT_S < 120
    assert (tracker.left > 0) == (seconds > 5)
    server.seconds = 0
    monkeypatch.setattr(module, "Courier", Courier)
    if tracker.left:
        assert sync(tmp_path / "run", "http://slow")[1] == 0
    assert sum(name == "create_run" for name, _ in server.calls) == 1
    place = str(tmp_path / "run")
    assert {line.replace(place, "RUN") for line in server.told()} == {
        line.replace(str(tmp_path / "fast"), "RUN") for line in fast.told()
    }
    assert not (tmp_path / "run" / FILE).exists()


def test_a_wait_is_for_its_own_file(slow, tmp_path):
    """Not for the load of the machines, which comes as fast as it is sent."""
    server = slow(5)
    tracker = Tracker.start("http://slow", "digits", "run", {}, {}, folder=tmp_path)
    server.clock.advance(60)
    (tmp_path / "sheet.png").write_text("x")
    real = server.clock.call

    def call(seconds: float) -> None:
        tracker.system({"node_0/cpu": 1.0})
        real(seconds)

    server.clock.call = call
    began, calls = server.clock.time, len(server.calls)
    tracker.artifact(tmp_path / "sheet.png", "data")
    assert server.clock.time - began == 5 and [name for name, _ in server.calls[calls:]] == ["log_artifact"]


def test_waits_for_files_end_together(slow, tmp_path):
    server = slow(1e6)
    tracker = Tracker.start("http://slow", "digits", "run", {}, {}, folder=tmp_path)
    waits = []
    for _ in range(4):
        began = server.clock.time
        tracker.artifact(tmp_path)
        waits.append(server.clock.time - began)
    assert waits == [module.UPLOAD_WAIT_S, module.UPLOADS_WAIT_S - module.UPLOAD_WAIT_S, 0, 0]
    assert tracker.run_id is None and tracker.left == 5


def test_what_was_sent_does_not_stay_in_a_file_that_is_never_empty(tmp_path, monkeypatch):
    monkeypatch.setattr("ray_distill.track.outbox.SENT_BYTES", 1000)
    outbox = Outbox(tmp_path)
    for step in range(200):
        outbox.add({"call": "metrics", "at": 1, "step": step, "values": {}})
        if step:
            outbox.sent()
    assert (tmp_path / FILE).stat().st_size < 2000
    assert [entry["step"] for entry in Outbox(tmp_path).ahead(99)][-1] == 199


def test_a_thread_that_sends_does_not_hold_the_end_of_the_process():
    asleep = threading.Event()
    courier = Courier(lambda: asleep.wait(60))
    assert not courier.wait(courier.nudge(), 0.01)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "tracker" and thread is courier._thread]
    assert thread.daemon
    asleep.set()
    courier.close()
    thread.join(10)
    assert not thread.is_alive()


def test_what_comes_while_the_last_is_sent_is_no_failure(slow, tmp_path):
    """An entry that is added behind a pass's last one is sent by the next pass, without a cool-down."""
    server = slow(5)
    tracker = Tracker.start("http://slow", "digits", "run", {}, {}, folder=tmp_path)
    server.clock.advance(60)
    real = tracker._outbox.first

    def first():
        entry = real()
        if entry is None and not added:
            added.append(True)
            tracker.metrics(1, {"loss": 1.0})
        return entry

    added: list[bool] = []
    tracker._outbox.first = first
    tracker.metrics(0, {"loss": 1.0})
    server.clock.advance(11)
    assert added and tracker.left == 0


def test_a_thread_that_dies_is_started_again(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    calls = []

    def send():
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt

    courier = Courier(send)
    assert courier.wait(courier.nudge(), 30)
    assert courier.wait(courier.nudge(), 30) and len(calls) == 2
    courier.close()


HTML = b"<html><body>Bad gateway</body></html>"
ANSWERS = {
    "400 HTML": (400, HTML),
    "400 without a body": (400, b""),
    "400 of another service": (400, b'{"error": "bad request"}'),
    "400 with a number": (400, b'{"error_code": 400, "message": "no"}'),
    "400 of a damaged database": (400, b'{"error_code": "BAD_REQUEST", "message": "database disk image is malformed"}'),
    "401": (401, HTML),
    "404": (404, b"Not Found"),
    "404 of another service": (404, b'{"detail": "Not Found"}'),
    "404 of another MLflow": (404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run not found"}'),
    "413": (413, HTML),
    "429": (429, b"slow down"),
    "500": (500, HTML),
    "500 of MLflow": (500, b'{"error_code": "INTERNAL_ERROR", "message": "x"}'),
    "garbage": (200, b"\x00\xff\x12garbage"),
    "another page": (200, HTML),
    "a list": (200, b"[]"),
    "hang": (None, b""),
}


@contextmanager
def answering(status: int | None, body: bytes) -> Iterator[str]:
    """A server with one answer for everything; None: none until the end."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if status is None:
                ended.wait(30)
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        ended.set()
        server.shutdown()


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_broken_server_loses_nothing(kind, uri, tmp_path, monkeypatch, caplog, capfd):
    """In the middle of a run, and at the opening of the next: all waits, and arrives when MLflow is back."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(module, "COOL_DOWN_S", 0.0)
    monkeypatch.setattr(module, "UPLOADS_WAIT_S", 2.0)
    monkeypatch.setattr(module, "START_WAIT_S", 2.0)
    monkeypatch.setattr(module, "END_WAIT_S", 2.0)
    name, run = kind.replace(" ", "-"), tmp_path / "run"
    (run / "student").mkdir(parents=True)
    (run / "student" / "config.json").write_text("{}")
    (run / "report.json").write_text("{}")
    tracker = Tracker.start(uri, "digits", name, {"lr": 1}, {}, folder=run)
    with answering(*ANSWERS[kind]) as broken:
        settle(tracker)
        tracker._sender._client = quiet_client(broken)
        tracker.metrics(0, {"loss": 0.5})
        tracker.tags({"node_0": "head"})
        tracker.artifact(run / "report.json")
        tracker.register(run / "student", name)
        tracker.end("FINISHED")
        assert tracker.left == 5
        again = Tracker.start(broken, "digits", name, {"lr": 1}, {}, folder=run)
        again.metrics(1, {"loss": 0.25})
        again.end("FINISHED")
    assert len(caplog.records) <= 4 and "left out" not in caplog.text and "Traceback" not in "".join(capfd.readouterr())
    caplog.clear()
    assert sync(run, uri)[1] == 0 and not caplog.records
    mlflow = quiet_client(uri)
    (tracked,) = mlflow.search_runs([mlflow.get_experiment_by_name("digits").experiment_id], f"run_name = '{name}'")
    assert tracked.info.status == "FINISHED" and tracked.data.tags["node_0"] == "head"
    assert sorted(p.step for p in mlflow.get_metric_history(tracked.info.run_id, "loss")) == [0, 1]
    assert {item.path for item in mlflow.list_artifacts(tracked.info.run_id)} == {"report.json", "student"}
    assert len(mlflow.search_model_versions(f"name='{name}'")) == 1
