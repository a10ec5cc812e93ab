"""What a worker does before its loop."""

import gc
from types import SimpleNamespace

import pytest

from ray_distill.data.feed import fetch
from ray_distill.models import light_diffusers
from ray_distill.train.worker import entry, loop


@pytest.mark.parametrize(("adapters", "before"), [(None, ["import", "freeze"]), ({"rank": 4}, ["freeze"])])
def test_only_a_worker_without_adapters_hides_packages_from_diffusers(adapters, before, monkeypatch):
    roles = {"teacher": None, "student": adapters}
    config = SimpleNamespace(held_roles=tuple(roles), role=lambda role: SimpleNamespace(lora=roles[role]))
    job, done = SimpleNamespace(config=config, stream=SimpleNamespace(micro_batch=1)), []
    monkeypatch.setattr(fetch, "rows_ahead", lambda shard, micro_batch: iter("ab"))
    monkeypatch.setattr(light_diffusers, "import_networks", lambda: done.append("import"))
    monkeypatch.setattr(gc, "freeze", lambda: done.append("freeze"))
    monkeypatch.setattr(loop, "work", lambda job, rows: done.append("".join(rows)))
    entry.train_worker({"job": job})
    assert done == [*before, "ab"]
