"""Processes of an evaluation's tasks."""

import pytest

from ray_distill.evaluate import processes


@pytest.mark.parametrize("own", [True, False])
def test_only_a_process_of_these_tasks_hides_packages_from_diffusers(own, monkeypatch):
    variables = processes.APART["runtime_env"]["env_vars"]
    for name, value in variables.items():
        if own:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name, raising=False)
    imported = []
    monkeypatch.setattr(processes, "import_networks", lambda: imported.append(True))
    processes.set_up_sampling()
    assert imported == [True] * own
