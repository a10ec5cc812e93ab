"""Odd names and values, openings that fail half-way, files that are too large: a run is one, and tells all it can."""

import logging
import math
import sys

import pytest
from mlflow.exceptions import MlflowException, RestException

from ray_distill.track import sender
from ray_distill.track import tracker as module
from ray_distill.track.client import KEY_LENGTH, key, keys, model_name, quiet_client, text
from ray_distill.track.sender import is_refused
from ray_distill.track.tracker import Tracker
from tests.unit.track.test_outbox import settle

ODD = [
    "a//b",
    "cat/",
    "/cat",
    "a/../c",
    "a/./c",
    ".",
    "..",
    "...",
    "..a",
    ".a",
    "",
    "/",
    "//",
    "a\nb",
    "é ü",
    "x" * 300,
    "a/" * 200,
]
ODD += ["half \ud800", "nul \0", "tab\t", "#%&?*", "日本語", "😀", "a\\b", " "]


def tracked(uri, run_id):
    return quiet_client(uri).get_run(run_id)


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_made_fit(name):
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

    fit = key(name)
    for validate in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        validate(fit)
    assert 0 < len(fit) <= KEY_LENGTH and key(fit) == fit and "/" not in model_name(name)


def test_names_stay_apart():
    names = [*ODD, "a_b", "a?b", "a*b", "x" * 301, *ODD]
    fit = keys(dict.fromkeys(names))
    assert len(set(fit)) == len(set(names)) and max(map(len, fit)) <= KEY_LENGTH
    assert keys(["lr", "a[0]", "evaluate.prompts.a"]) == ["lr", "a_0_", "evaluate.prompts.a"]
    assert keys(["a_b", "a?b"])[0] == "a_b"  # what needs no change keeps its name


def test_what_a_database_does_not_take_is_replaced():
    assert text("a\0b") == "a?b" and text("half \ud800") == "half ?" and text("日本", 1) == "日"


def test_odd_names_and_values_open_one_run(uri, tmp_path, caplog):
    params = {f"evaluate.prompts.{name}": f"value of {name}" for name in ODD}
    tracker = Tracker.start(uri, "odd", "odd", params, {f"tag {name}": name for name in ODD}, folder=tmp_path)
    tracker.metrics(0, {f"evaluate/{name}": 1.0 for name in ODD})
    tracker.end("FINISHED")
    run = tracked(uri, tracker.run_id)
    assert len(run.data.params) == len(ODD) and run.info.status == "FINISHED" and not caplog.records
    client = quiet_client(uri)
    assert len(client.search_runs([client.get_experiment_by_name("odd").experiment_id])) == 1


@pytest.mark.parametrize("lost", ["before", "after", "describing"])
def test_an_opening_that_fails_half_way_makes_one_run(uri, tmp_path, monkeypatch, lost):
    """The call is lost, or its answer is, or what follows fails: the next try goes on with the run that is there."""
    monkeypatch.setattr(module, "COOL_DOWN_S", 0.0)
    connect, failures = sender.quiet_client, iter([True, True])

    class Client:
        def __init__(self, uri):
            self._client = connect(uri)

        def __getattr__(self, name):
            return getattr(self._client, name)

        def create_run(self, *args, **kwargs):
            if lost == "before" and next(failures, False):
                raise ConnectionError("lost")
            run = self._client.create_run(*args, **kwargs)
            if lost == "after" and next(failures, False):
                raise ConnectionError("the answer is lost")
            return run

        def log_batch(self, *args, **kwargs):
            if lost == "describing" and next(failures, False):
                raise ConnectionError("lost")
            return self._client.log_batch(*args, **kwargs)

    monkeypatch.setattr(sender, "quiet_client", Client)
    first = Tracker.start(uri, f"half-{lost}", "run", {"lr": 1}, {}, folder=tmp_path)
    settle(first)
    again = Tracker.start(uri, f"half-{lost}", "run", {"lr": 1}, {}, folder=tmp_path)  # the process before was killed
    settle(again)
    again.end("FINISHED")
    client = connect(uri)
    (run,) = client.search_runs([client.get_experiment_by_name(f"half-{lost}").experiment_id])
    assert run.info.run_id == again.run_id and run.data.params == {"lr": "1"} and run.info.status == "FINISHED"


def test_a_parameter_that_is_refused_is_left_out_alone(uri, tmp_path, monkeypatch, caplog):
    connect = sender.quiet_client

    class Client:
        def __init__(self, uri):
            self._client = connect(uri)

        def __getattr__(self, name):
            return getattr(self._client, name)

        def log_batch(self, run_id, params=(), **kwargs):
            if any(param.key == "bad" for param in params):
                raise MlflowException.invalid_parameter_value("no such luck")
            return self._client.log_batch(run_id, params=params, **kwargs)

    monkeypatch.setattr(sender, "quiet_client", Client)
    tracker = Tracker.start(uri, "digits", "refused", {"a": 1, "bad": 2, "c": 3, "d": 4}, {}, folder=tmp_path)
    tracker.end("FINISHED")
    assert tracked(uri, tracker.run_id).data.params == {"a": "1", "c": "3", "d": "4"}
    assert [r.getMessage() for r in caplog.records if "the parameter bad" in r.getMessage()] and len(
        caplog.records
    ) == 1


def test_a_run_that_was_deleted_is_opened_anew(uri, tmp_path, caplog):
    first = Tracker.start(uri, "digits", "deleted", {}, {}, folder=tmp_path)
    first.end("KILLED")
    quiet_client(uri).delete_run(first.run_id)
    again = Tracker.start(uri, "digits", "deleted", {}, {}, folder=tmp_path)
    again.metrics(0, {"loss": 1.0})
    again.end("FINISHED")
    assert again.run_id != first.run_id and tracked(uri, again.run_id).data.metrics == {"loss": 1.0}
    assert f"does not know run {first.run_id}; a new run is opened" in caplog.text


def test_only_mlflows_own_answer_refuses():
    entry = {"call": "metrics"}
    refusal = {"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}
    assert is_refused(entry, RestException(refusal)) and is_refused(
        entry, MlflowException.invalid_parameter_value("no")
    )
    assert not is_refused({"call": "open"}, RestException(refusal))
    for body in ({"error": "bad"}, {"error_code": 400}, {"error_code": "400"}, {"error_code": "BAD_REQUEST"}, {}):
        assert not is_refused(entry, RestException(body))
    assert not is_refused(entry, MlflowException("html", error_code=1)) and not is_refused(entry, ValueError("x"))
    assert is_refused({"call": "artifact", "path": "/none/such"}, ConnectionError("x"))


class TooLarge:
    """A proxy that takes no more than ``most`` metrics of a call, and no file."""

    def __init__(self, client, most):
        self._client, self.most, self.sizes = client, most, []

    def __getattr__(self, name):
        return getattr(self._client, name)

    def log_batch(self, run_id, metrics=(), **kwargs):
        self.sizes.append(len(metrics))
        if len(metrics) > self.most:
            raise MlflowException("API request to endpoint failed with error code 413 != 200. Response body: ''")
        return self._client.log_batch(run_id, metrics=metrics, **kwargs)

    def log_artifact(self, run_id, path, folder):
        raise MlflowException("API request to endpoint failed with error code 413 != 200. Response body: ''")


def test_what_is_too_large_for_a_proxy_holds_nothing_else_up(uri, tmp_path, caplog):
    (tmp_path / "film.mp4").write_bytes(b"film")
    tracker = Tracker.start(uri, "digits", "large", {}, {}, folder=tmp_path)
    settle(tracker)
    plain = tracker._sender._client
    proxy = tracker._sender._client = TooLarge(plain, 3)
    tracker._retry_at = 1e12  # an outage: the rows wait, and come together
    for step in range(20):
        tracker.metrics(step, {"loss": 1.0})
    tracker.artifact(tmp_path / "film.mp4", wait=False)
    tracker.end("FINISHED")
    run = tracked(uri, tracker.run_id)
    assert len(plain.get_metric_history(tracker.run_id, "loss")) == 20 and run.info.status == "FINISHED"
    assert proxy.sizes[:3] == [20, 10, 5] and set(proxy.sizes[3:]) == {2} and tracker.left == 1
    assert len([record for record in caplog.records if "failed" in record.getMessage()]) == 1
    tracker._sender._client, tracker._retry_at = plain, 0.0
    assert tracker.send() and [item.path for item in plain.list_artifacts(tracker.run_id)] == ["film.mp4"]


@pytest.mark.parametrize("outage", ["garbage", "no folder"])
def test_an_outage_of_sqlite_is_one_line(outage, tmp_path, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(module, "COOL_DOWN_S", 0.0)
    monkeypatch.setattr(module, "START_WAIT_S", 3.0)
    database = tmp_path / "store" / "mlflow.db"
    if outage == "no folder":
        database.parent.write_text("a file")
    else:
        database.parent.mkdir()
        database.write_bytes(b"no database" * 100)
    tracker = Tracker.start(f"sqlite:///{database}", "digits", "run", {}, {}, folder=tmp_path)
    for step in range(60):
        tracker.metrics(step, {"loss": 1.0})
    monkeypatch.setattr(module, "END_WAIT_S", 1.0)
    tracker.end("FINISHED")
    ours = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.name for record in ours] == [module.__name__] * 2 and "track sync" in ours[1].getMessage()
    assert capfd.readouterr().err == "" and tracker.left == 62


@pytest.mark.parametrize(
    ("values", "latest"), [((math.inf,), sys.float_info.max), ((5.0, 3.0), 5.0), ((math.nan, 1.0), 1.0)]
)
def test_a_store_gives_infinity_back_as_the_largest_number(uri, values, latest):
    """And of values of one step and time the largest, where NaN is 0 (findings/mlflow_infinity.sh)."""
    client = quiet_client(uri)
    run = client.create_run("0").info.run_id
    for value in values:
        client.log_metric(run, "loss", value, timestamp=1000, step=1)
    assert client.get_run(run).data.metrics["loss"] == latest
