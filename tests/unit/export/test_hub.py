"""Publishing: known to work before the training, at the end and from checkpoints; a dead hub stops nothing."""

import logging
import traceback
from types import SimpleNamespace

import pytest

from ray_distill.config import ConfigError
from ray_distill.export import student
from ray_distill.export.checks import check_token
from ray_distill.export.hub import Hub
from tests.unit.toys import run_config

SHAPE = (16, 3, 6, 6)
PUBLISH = {"hub_model_id": "wan-3step", "base_model": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"}


class Api:
    """The part of huggingface_hub's HfApi that we use."""

    def __init__(self, fails=()):
        self.fails, self.made, self.uploads = fails, [], []

    def create_repo(self, name, **kwargs):
        if isinstance(self.fails, int):
            error = OSError("the hub's answer")
            error.response = SimpleNamespace(status_code=self.fails)
            raise error
        if "create" in self.fails:
            raise PermissionError("403 for https://ann:hunter2@hub")
        if "reach" in self.fails:
            raise TimeoutError("no route")
        self.made.append((name, kwargs))
        return SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(self, **kwargs):
        if "upload" in self.fails:
            raise ConnectionError("no route")
        assert kwargs["folder_path"].is_dir()
        self.uploads.append(kwargs)


@pytest.fixture
def exports(monkeypatch):
    """Record what is exported; the export itself is tested elsewhere."""
    seen = []

    def export(config, checkpoint, latent_shape, folder):
        seen.append((checkpoint, latent_shape))
        folder.mkdir(parents=True)
        return folder

    monkeypatch.setattr(student, "export", export)
    return seen


def config(folder, **publish):
    return run_config(folder, publish=PUBLISH | publish, train__checkpoint_every=10)


def test_without_a_token_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match=r"publish\.hub_model_id = wan-3step: .*HF_TOKEN.*--no-push"):
        check_token(config(tmp_path))
    check_token(run_config(tmp_path))  # nothing to publish, nothing to ask for
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    check_token(config(tmp_path))


def test_a_refusal_is_known_before_the_training(tmp_path):
    with pytest.raises(ConfigError, match=r"hub refuses it \(PermissionError: 403 .*\*@hub\).*--no-push") as error:
        Hub(config(tmp_path), Api(fails=("create",)))
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


def test_an_answer_of_the_hub_is_a_refusal_unless_it_is_its_own_fault(tmp_path):
    Hub(config(tmp_path), Api(fails=503))
    with pytest.raises(ConfigError, match="hub refuses it"):
        Hub(config(tmp_path), Api(fails=403))


def test_a_hub_that_is_away_at_the_start_is_asked_again(tmp_path, exports, caplog):
    api = Api(fails=["reach"])
    made = Hub(config(tmp_path, per_checkpoint=True), api)
    assert "the hub cannot be reached (TimeoutError)" in caplog.text
    made.checkpoint(tmp_path / "step_00000010", 10, SHAPE)
    made._pool.submit(lambda: None).result()
    assert api.uploads == []
    api.fails.clear()
    assert made.finish(tmp_path) == "me/wan-3step" and len(api.uploads) == 1


def test_the_student_is_published_at_the_end(tmp_path, exports):
    api = Api()
    made = Hub(config(tmp_path), api)
    assert api.made == [("wan-3step", {"private": True, "exist_ok": True})]
    made.checkpoint(tmp_path / "step_00000010", 10, SHAPE)
    assert made.finish(tmp_path) == "me/wan-3step"
    made.close()
    (upload,) = api.uploads
    assert (upload["repo_id"], upload["folder_path"], upload["path_in_repo"]) == ("me/wan-3step", tmp_path, None)
    assert exports == []


def test_checkpoints_are_published_on_their_cadence(tmp_path, exports):
    api = Api()
    made = Hub(config(tmp_path, per_checkpoint=True, private=False), api)
    assert api.made[0][1]["private"] is False
    for step in (5, 10, 20):  # a validation's checkpoint is none of these
        made.checkpoint(tmp_path / f"step_{step:08d}", step, SHAPE)
    made.finish(tmp_path)
    places = [upload["path_in_repo"] for upload in api.uploads]
    assert places == ["checkpoints/step_00000010", "checkpoints/step_00000020", None]
    assert exports[0] == (tmp_path / "step_00000010", SHAPE)
    assert not list((tmp_path / "output" / "run").iterdir())  # exports for the hub are taken away again


def test_a_dead_hub_stops_nothing(tmp_path, exports, caplog):
    made = Hub(config(tmp_path, per_checkpoint=True), Api(fails=("upload",)))
    made.checkpoint(tmp_path / "step_00000010", 10, SHAPE)
    assert made.finish(tmp_path) is None
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 2 and "step_00000010 was not published" in told[0]
    assert f"Again: hf upload me/wan-3step {tmp_path}" in told[1]


def test_a_run_without_the_section_publishes_nothing(tmp_path):
    made = Hub(run_config(tmp_path))
    made.checkpoint(tmp_path, 10, SHAPE)
    assert made.finish(tmp_path) is None
    made.close()
