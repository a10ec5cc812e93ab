"""Planted secrets are nowhere to be seen: not in texts, dumps, tables, plans, errors or what they raise."""

import json
import traceback

import pytest

from ray_distill.cli import main
from ray_distill.config import ConfigError, RunConfig, load_config
from ray_distill.config.load import write_yaml
from ray_distill.config.secrets import mask, masked
from ray_distill.train.check import check_track
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
    assert masked({"a": [text, 3], "b": {"c": text}}) == {"a": [shown, 3], "b": {"c": shown}}


def test_a_configuration_shows_no_password(tmp_path):
    config = run_config(tmp_path, track={"uri": URI})
    shown = [json.dumps(config.dump()), repr(config), str(config), repr(config.track), f"{config!r}"]
    assert not [text for text in shown if "hunter2" in text]
    assert config.dump()["track"]["uri"] == "postgresql://ann:***@db:5432/mlflow"
    assert RunConfig.model_validate(config.dump(secrets=True)) == config
    check_track(config)
    with pytest.raises(ConfigError, match=r"its password was hidden .*: RAY_DISTILL_TRACK__URI="):
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
