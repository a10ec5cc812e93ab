"""Calls on GPUs go to actors that are ready, by their cost, and the actors end with the evaluation."""

from types import SimpleNamespace

import pytest

from ray_distill.evaluate import generate, workers
from ray_distill.evaluate.workers import Workers, gpu_workers
from ray_distill.types import Sampler
from tests.unit.toys import run_config


class Actor:
    """Notes its calls; ``free`` is whether its GPU comes."""

    def __init__(self, number, free):
        self.calls, self.number = [], number
        self.ready = SimpleNamespace(remote=lambda: (number, free))
        self.run = SimpleNamespace(remote=lambda call, *arguments: self.calls.append(arguments) or call(*arguments))


class ToyRay:
    """A cluster of some GPUs, of which ``free`` come."""

    def __init__(self, gpus, free):
        self.gpus, self.free, self.actors, self.killed, self.options = gpus, free, [], [], []
        self.kill = lambda actor: self.killed.append(actor.number)

    def cluster_resources(self):
        return {"CPU": 4.0, **({"GPU": float(self.gpus)} if self.gpus else {})}

    def remote(self, **options):
        self.options.append(options)
        return lambda of: SimpleNamespace(remote=self._make)

    def _make(self):
        number = len(self.actors)
        self.actors.append(Actor(number, number in self.free))
        return self.actors[-1]

    def wait(self, asked, timeout, num_returns=1):
        answers = [each for each in asked if each[1]]
        return answers[:num_returns], [each for each in asked if each not in answers]

    def get(self, task, timeout):
        if not (task[0] if isinstance(task, list) else task)[1]:
            raise TimeoutError("no GPU is free")


@pytest.fixture
def cluster(monkeypatch):
    def make(gpus, free):
        toy = ToyRay(gpus, free)
        monkeypatch.setattr(workers, "ray", toy)
        return toy

    return make


def test_a_call_goes_to_the_actor_with_the_least_work():
    """Three long calls, then short ones: 64, 64 | 64, 3, 3, ... until the loads are equal."""
    actors = [Actor(0, True), Actor(1, True)]
    pool = Workers(actors)
    for number, cost in enumerate([64, 64, 64, *[3] * 23]):
        assert pool.submit(cost, lambda *arguments: arguments[0], number) == number
    assert [number for (number,) in actors[0].calls] == [0, 2, 25]
    assert [number for (number,) in actors[1].calls] == [1, *range(3, 25)]


@pytest.mark.parametrize(("gpus", "most", "count"), [(8, 15, 8), (8, 3, 3), (1, 15, 1)])
def test_actors_are_as_many_as_gpus_or_calls_and_end_with_the_block(cluster, gpus, most, count):
    toy = cluster(gpus, range(8))
    with pytest.raises(KeyError), gpu_workers(most, 5) as pool:
        assert len(pool._actors) == len(toy.actors) == count and toy.killed == []
        raise KeyError
    assert toy.killed == list(range(count))
    assert toy.options[0]["num_gpus"] == 1 and toy.options[0]["max_restarts"] == toy.options[0]["max_task_retries"] == 3


def test_gpus_that_others_hold_are_not_waited_for_once_one_is_there(cluster):
    toy = cluster(4, {1, 3})
    with gpu_workers(8, 5) as pool:
        assert [actor.number for actor in pool._actors] == [1, 3]
    assert toy.killed == [0, 1, 2, 3]
    toy = cluster(2, ())
    with pytest.raises(TimeoutError), gpu_workers(8, 5):
        raise AssertionError("nothing is free")
    assert toy.killed == [0, 1]


def test_only_a_run_on_gpus_has_them(cluster, tmp_path, monkeypatch):
    """Within the block calls go to actors, after it and on CPUs they are tasks."""
    toy, tasks = cluster(2, range(2)), []
    task = SimpleNamespace(remote=lambda *arguments: tasks.append(arguments))
    monkeypatch.setattr(generate, "ray", SimpleNamespace(remote=lambda **options: lambda call: task))
    monkeypatch.setattr(generate, "generate", lambda *arguments: "samples")
    candidate = generate.Candidate("teacher", Sampler((1000.0,), "ode"))
    for gpu in (False, True):
        generator = object.__new__(generate.Generator)
        generator._config, generator.prompts, generator.timeout_s = run_config(tmp_path, train__use_gpu=gpu), ["a"], 1
        generator._rows = generator._negative = generator._keep = generator._pictures = generator._workers = None
        with generator.on_workers(15):
            assert generator.start(candidate, 1) == ("samples" if gpu else None)
        generator.start(candidate, 1)
    assert len(tasks) == 3 and [len(actor.calls) for actor in toy.actors] == [1, 0] and toy.killed == [0, 1]
