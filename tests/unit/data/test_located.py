"""A model is a folder, or a name on the hub if this machine's hub cache has it."""

from pathlib import Path

import huggingface_hub
import pytest

from ray_distill.settings import find_pipeline


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A hub cache with one revision of one repository."""
    commit = "0" * 40
    repository = tmp_path / "hub/models--Org--Model"
    (repository / "snapshots" / commit / "transformer").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return repository / "snapshots" / commit


def test_a_name_is_its_snapshot_in_the_cache(cached):
    assert find_pipeline(Path("Org/Model")) == cached


@pytest.mark.parametrize("path", ["Org/Other", "a folder/with spaces", "models/Org/Model", "Model"])
def test_all_else_is_a_path_of_the_working_directory(cached, tmp_path, path):
    assert find_pipeline(Path(path)) == tmp_path / path


def test_a_folder_that_is_there_comes_first(cached, tmp_path):
    (tmp_path / "Org/Model").mkdir(parents=True)
    assert find_pipeline(Path("Org/Model")) == tmp_path / "Org/Model"
