"""Planted secrets are nowhere to be seen: not in texts, dumps, tables, plans, errors or what they raise."""

import json
import logging
import sys
import threading
import traceback
from pathlib import Path

import pytest

from ray_distill import cli
from ray_distill.cli import main
from ray_distill.config import ConfigError, RunConfig, load_config
from ray_distill.config.load import write_yaml
from ray_distill.secrets import MaskedFormatter, mask, mask_threads, mask_tree
from ray_distill.train.driver.check import check_track
from ray_distill.train.driver.console import say
from ray_distill.train.wire.job import Job
from ray_distill.tune.trial import Plan
from tests.unit.test_docs import ROOT
from tests.unit.toys import run_config

URI = "postgresql://ann:hunter2@db:5432/mlflow"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://ann:p@ss:w@host:5000/x", "at https://ann:***@host:5000/x"),
        ("http://127.0.0.1:5000 sqlite:////a/b.db", "http://127.0.0.1:5000 sqlite:////a/b.db"),
        ("see http://a:b@c and http://d:e@f/g", "see http://a:***@c and http://d:***@f/g"),
        ("s3://key:secret@bucket/clips", "s3://key:***@bucket/clips"),
        ("https://h/x?a=1&X-Amz-Signature=abc&b=2", "https://h/x?a=1&X-Amz-Signature=***&b=2"),
        ("https://h/x?access_token=abc'", "https://h/x?access_token=***'"),
        ("steps: 10, a@b", "steps: 10, a@b"),
    ],
)
def test_what_is_hidden(text, shown):
    assert mask(text) == mask(shown) == shown
    assert mask_tree({"a": [text, 3], "b": {"c": text}}) == {"a": [shown, 3], "b": {"c": shown}}


def test_a_configuration_shows_no_password(tmp_path):
    config = run_config(tmp_path, track={"uri": URI})
    shown = [json.dumps(config.dump()), repr(config), str(config), repr(config.track), f"{config!r}"]
    assert not [text for text in shown if "hunter2" in text]
    assert config.dump()["track"]["uri"] == "postgresql://ann:***@db:5432/mlflow"
    assert RunConfig.model_validate(config.dump(secrets=True)) == config
    check_track(config)
    with pytest.raises(
        ConfigError, match=r"this file was written without its password; give .*: RAY_DISTILL_TRACK__URI="
    ):
        check_track(RunConfig.model_validate(config.dump()))


def test_what_users_see_shows_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RAY_DISTILL_TRACK__URI", URI)
    loaded = load_config(ROOT / "configs/quickstart.yaml")
    assert loaded.config.track.uri == URI
    write_yaml(tmp_path / "a.yaml", loaded, "b.json")
    shown = loaded.table() + (tmp_path / "a.yaml").read_text()
    main(["check", "configs/quickstart.yaml", f"model.path={tmp_path}"])
    main(["plan", "configs/quickstart.yaml"])
    shown += "".join(capsys.readouterr())
    assert "***@db" in shown and "$RAY_DISTILL_TRACK__URI" in shown and "hunter2" not in shown


@pytest.mark.parametrize(
    "wrong",
    [
        "track.uri=[http://ann:hunter2@host]",
        "track.uri={a: http://ann:hunter2@host}",
        "track.uri.http=//ann:hunter2@host",
        "train.steps=http://ann:hunter2@host",
        "http://ann:hunter2@host",
        "data.manifest=s3://ann:hunter2@bucket/m.jsonl",
        "output_dir=s3://ann:hunter2@bucket/out",
        "track.uri='http://ann:hunter2@host",
    ],
)
def test_an_error_shows_none(wrong):
    with pytest.raises(ConfigError) as error:
        load_config(ROOT / "configs/quickstart.yaml", [wrong], environment={})
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


def test_a_run_is_refused_where_workers_have_no_file_system(tmp_path):
    with pytest.raises(ConfigError, match=r"output_dir: s3://bucket/out is no folder: .* all nodes mount"):
        load_config(ROOT / "configs/quickstart.yaml", ["output_dir=s3://bucket/out"], environment={})
    with pytest.raises(ConfigError, match=r"a URI with a user or a key in it.*AWS_SECRET_ACCESS_KEY"):
        load_config(ROOT / "configs/quickstart.yaml", ["data.manifest=s3://k:s@bucket/m.jsonl"], environment={})


def test_workers_and_trials_get_the_configuration_as_it_is_and_show_none_of_it(tmp_path, monkeypatch):
    folder = tmp_path / "planted-2"
    monkeypatch.setenv("JUPYTER_TOKEN", "planted-2")
    monkeypatch.setenv("MY_TOKEN", str(folder))
    config = run_config(folder, name="planted-2", track={"uri": URI})
    job = Job(config.dump(secrets=True), config.run_dir, None, None, None)
    assert job.config == config and job.config.source("student") == folder / "model"
    plan = Plan({"overrides": {"track.uri": URI}}, config.dump(secrets=True), 1.0, None)
    assert "hunter2" not in f"{job!r}{job}{plan!r}{plan}"
    shown = config.dump()
    assert shown["name"] == "planted-2" and shown["model"]["path"] == str(folder / "model")
    assert RunConfig.model_validate(shown).run_dir == config.run_dir


def test_a_presigned_address_that_was_hidden_is_asked_for_again(tmp_path):
    address = "https://h/clips/m.jsonl?X-Amz-Signature=hunter2"
    config = run_config(tmp_path, data__manifest=address)
    check_track(config)
    with pytest.raises(
        ConfigError,
        match=r"data\.manifest = .*\*\*\*: this file was written without its signature; give the whole address",
    ):
        check_track(RunConfig.model_validate(config.dump()))
    several = run_config(
        tmp_path, data__manifest=None, data__datasets=[{"videos": str(tmp_path)}, {"manifest": address}]
    )
    with pytest.raises(ConfigError, match=r"data\.datasets\.1\.manifest = "):
        check_track(RunConfig.model_validate(several.dump()))


@pytest.mark.parametrize("error", [OSError, RuntimeError, KeyError, ValueError, ConfigError])
def test_no_error_leaves_main_with_a_secret(monkeypatch, capsys, error):
    def fail(args):
        try:
            raise OSError(f"cannot read {URI}")
        except OSError as cause:
            raise error("denied: Authorization: Bearer hunter2") from cause

    monkeypatch.setitem(cli.VERBS, "train", fail)
    assert main(["train", "a.yaml"]) == (2 if error is ConfigError else 1)
    shown = "".join(capsys.readouterr())
    assert "denied: Authorization: Bearer ***" in shown and "hunter2" not in shown


def test_what_is_logged_or_said_holds_none(capsys):
    try:
        raise OSError(f"cannot read {URI}")
    except OSError:
        record = logging.LogRecord("a", logging.ERROR, "a.py", 1, "at %s", (URI,), sys.exc_info())
    shown = MaskedFormatter("%(message)s").format(record)
    assert shown.startswith("at postgresql://ann:***@db") and "Traceback" in shown and "hunter2" not in shown
    say(f"   at {URI}")
    assert "hunter2" not in capsys.readouterr().err


def test_a_thread_that_fails_shows_none(monkeypatch, capsys):
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    mask_threads()

    def fail():
        raise OSError(f"cannot read {URI}")

    thread = threading.Thread(target=fail, name="encoders")
    thread.start()
    thread.join()
    shown = capsys.readouterr().err
    assert "Exception in encoders" in shown and "ann:***@db" in shown and "hunter2" not in shown


def test_no_key_of_ours_is_taken_for_a_secret():
    tree = json.loads(
        json.dumps(load_config(Path("configs/quickstart.yaml"), environment={}).config.dump(secrets=True))
    )
    assert mask_tree(tree) == tree
