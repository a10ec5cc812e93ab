"""A bar of an evaluation moves as tasks end, in whatever order; results come in the order of the tasks."""

import pytest

from ray_distill.evaluate import waiting


class Shown:
    def __init__(self):
        self.done, self.refreshed = [], 0

    def update(self, count):
        self.done.append(count)

    def refresh(self):
        self.refreshed += 1


class ToyRay:
    """Each ``wait`` ends the tasks of one round, after a second."""

    def __init__(self, now, rounds):
        self.now, self.rounds, self.timeouts = now, list(rounds), []

    def wait(self, tasks, timeout):
        self.now[0] += timeout
        ended = self.rounds.pop(0) if self.rounds else []
        return ended, [task for task in tasks if task not in ended]

    def get(self, tasks, timeout):
        self.timeouts.append(timeout)
        return [task.upper() for task in tasks]


@pytest.fixture
def now(monkeypatch):
    at = [0.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: at[0])
    return at


def test_the_bar_moves_with_each_task(monkeypatch, now):
    toy = ToyRay(now, [["b"], [], ["a"], ["c"]])
    monkeypatch.setattr(waiting, "ray", toy)
    shown = Shown()
    assert waiting.wait_for(["a", "b", "c"], 10, shown, 4) == ["A", "B", "C"]
    assert shown.done == [4, 4, 4] and shown.refreshed == 4 and toy.timeouts == [10]


def test_tasks_that_never_end_are_given_up(monkeypatch, now):
    toy = ToyRay(now, [["a"], [], []])
    monkeypatch.setattr(waiting, "ray", toy)
    waiting.wait_for(["a", "b"], 3, Shown(), 1)
    assert now[0] == 4 and toy.timeouts == [0]  # 3 s after the last that ended; Ray raises its own error
