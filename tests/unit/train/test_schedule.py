import math

import pytest

from ray_distill.config.schema import Optimizer
from ray_distill.train.schedule import learning_rate, total_updates
from tests.unit.toys import run_config

RATE = 1e-3


def rates(total=100, **fields):
    optimizer = Optimizer(learning_rate=RATE, **fields)
    return [learning_rate(optimizer, update, total) for update in range(total)]


def test_constant():
    assert set(rates()) == {RATE}


@pytest.mark.parametrize(
    ("schedule", "closed_form"),
    [("linear", lambda done: 1 - done), ("cosine", lambda done: math.cos(math.pi * done / 2) ** 2)],
)
@pytest.mark.parametrize("warmup", [0, 20])
def test_closed_forms(schedule, closed_form, warmup):
    got = rates(schedule=schedule, warmup_updates=warmup)
    wanted = [RATE * (u + 1) / warmup for u in range(warmup)]
    wanted += [RATE * closed_form((u - warmup) / (100 - warmup)) for u in range(warmup, 100)]
    assert got == pytest.approx(wanted, rel=1e-9)
    assert got[warmup] == max(got) == RATE and 0 < got[-1] < RATE / 50
    assert learning_rate(Optimizer(learning_rate=RATE, schedule=schedule), 100, 100) == pytest.approx(0, abs=1e-12)


def test_warm_up_begins_above_zero_and_ends_at_the_rate():
    got = rates(schedule="constant", warmup_updates=4)
    assert got[:5] == pytest.approx([RATE / 4, RATE / 2, 3 * RATE / 4, RATE, RATE])


@pytest.mark.parametrize("warmup", [10, 15])
def test_a_run_that_is_all_warm_up(warmup):
    assert rates(total=10, schedule="cosine", warmup_updates=warmup)[-1] == pytest.approx(RATE * 10 / warmup)


def test_total_updates(tmp_path):
    assert total_updates(run_config(tmp_path)) == {"student": 160, "fake_score": 800}
    assert total_updates(run_config(tmp_path, train__steps=4)) == {"fake_score": 4}
    flow = {"method": {"name": "flow_matching"}, "roles": {"student": {"optimizer": {"learning_rate": 1}}}}
    assert total_updates(run_config(tmp_path, **flow)) == {"student": 800}
