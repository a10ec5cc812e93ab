"""A web hook gets the events in order; a dead one costs a warning without its address, and no time."""

import json
import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ray_distill.config import ConfigError
from ray_distill.track import webhook
from ray_distill.track.webhook import WebHook, read_hook

SECRET = "s3cret-path"


@pytest.fixture
def server(monkeypatch):
    """Keeps what is posted; ``refuse`` is how many posts it answers with 503 first."""
    monkeypatch.setattr(webhook, "PAUSE_S", 0.01)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.refuse -= 1
            if server.refuse < 0:
                server.got.append((self.path, body))
            self.send_response(503 if server.refuse >= 0 else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.refuse = [], 0
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def file(folder, **values):
    path = folder / "hook.json"
    path.write_text(json.dumps(values))
    return path


def test_events_arrive_in_order_with_their_values(server, tmp_path):
    path = file(tmp_path, callback_url=f"http://127.0.0.1:{server.server_port}/{SECRET}", message_prefix="lab: ")
    hook = WebHook(path, "run_7")
    hook.send("start", "begun", steps=4)
    hook.send("checkpoint", "saved", step=2)
    hook.send("end", "done")
    hook.close()
    assert [body["event"] for _, body in server.got] == ["start", "checkpoint", "end"]
    place, body = server.got[1]
    assert place == f"/{SECRET}" and body["run"] == "run_7" and body["message"] == "lab: saved" and body["step"] == 2
    assert abs(body["time"] - time.time()) < 60


def test_a_refused_post_is_tried_again(server, tmp_path, caplog):
    server.refuse = webhook.ATTEMPTS - 1
    hook = WebHook(file(tmp_path, callback_url=f"http://127.0.0.1:{server.server_port}/x"), "run")
    hook.send("end", "done")
    hook.close()
    assert len(server.got) == 1 and not caplog.records


def test_a_dead_hook_costs_one_warning_without_its_address(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(webhook, "PAUSE_S", 0.01)
    hook = WebHook(file(tmp_path, callback_url=f"http://127.0.0.1:9/{SECRET}"), "run")
    began = time.monotonic()
    for step in range(3 * webhook.WAITING):  # more than are kept
        hook.send("checkpoint", "saved", step=step)
    assert time.monotonic() - began < 0.5
    monkeypatch.setattr(webhook, "END_WAIT_S", 0.2)
    hook.close()
    assert time.monotonic() - began < 2
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert SECRET not in record.getMessage() and "The run goes on" in record.getMessage()
    assert SECRET not in repr(hook._hook)


def test_a_hook_that_accepts_and_never_answers_delays_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(webhook, "END_WAIT_S", 0.2)
    monkeypatch.setattr(webhook, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(webhook, "ATTEMPTS", 1)
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        dead.listen()
        hook = WebHook(file(tmp_path, callback_url=f"http://127.0.0.1:{dead.getsockname()[1]}/x"), "run")
        began = time.monotonic()
        for step in range(20):
            hook.send("checkpoint", "saved", step=step)
        assert time.monotonic() - began < 0.5
        hook.close()
        assert time.monotonic() - began < 2
    hook._thread.join(30)  # its warning belongs to this test


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(server, tmp_path, caplog, monkeypatch, code):
    monkeypatch.setattr(webhook, "ATTEMPTS", 1)

    def do_POST(handler):
        server.got.append(handler.path)
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.send_response(code)
        handler.send_header("Location", f"http://127.0.0.1:{server.server_port}/elsewhere")
        handler.end_headers()

    monkeypatch.setattr(server.RequestHandlerClass, "do_POST", do_POST)
    monkeypatch.setattr(
        server.RequestHandlerClass, "do_GET", lambda handler: server.got.append(handler.path), raising=False
    )
    hook = WebHook(file(tmp_path, callback_url=f"http://127.0.0.1:{server.server_port}/{SECRET}"), "run")
    hook.send("end", "done")
    hook.close()
    assert server.got == [f"/{SECRET}"]
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert f"HTTPError {code}" in record.getMessage() and SECRET not in record.getMessage()


def test_what_is_posted_holds_no_secret(server, tmp_path):
    hook = WebHook(file(tmp_path, callback_url=f"http://127.0.0.1:{server.server_port}/x"), "run")
    hook.send("failure", "cannot read https://h/x?sig=planted-1", password="planted-2", at=["http://a:planted-3@h"])
    hook.close()
    ((_, body),) = server.got
    assert "planted" not in json.dumps(body) and body["message"] == "cannot read https://h/x?sig=***"


def test_without_a_file_nothing_happens():
    hook = WebHook(None, "run")
    hook.send("start", "begun")
    hook.close()
    assert not hook._thread.is_alive()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        (f'{{"callback_url": "{SECRET}"}}', "callback_url must start with http"),
        (f'{{"webhook_url": "https://{SECRET}", "webhook_type": "discord"}}', "webhook_type: give one mapping"),
        (f'{{"url": "https://{SECRET}"}}', "callback_url, url: give one mapping"),
        (f'["https://{SECRET}"]', "the whole: give one mapping"),
    ],
)
def test_a_bad_file_is_named_and_its_values_are_not(tmp_path, text, message):
    path = tmp_path / "hook.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_hook(path)
    told = str(error.value)
    assert message in told and told.startswith(f"track.webhook = {path}: ") and SECRET not in told
    assert error.value.__cause__ is None


def test_a_missing_file_is_named_with_the_way_out(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json: no such file.*--no-push"):
        read_hook(tmp_path / "none.json")
