import math
from collections import Counter

import pytest
import torch
from transformers.optimization import (
    get_cosine_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_polynomial_decay_schedule_with_warmup,
)

from ray_distill.config.roles import Optimizer
from ray_distill.config.stages import distinct
from ray_distill.methods import METHODS
from ray_distill.train.schedule import learning_rate, total_updates, warnings
from tests.unit.toys import run_config

RATE = 1e-3


def rates(total=100, **fields):
    optimizer = Optimizer(learning_rate=RATE, **fields)
    return [learning_rate(optimizer, update, total) for update in range(total)]


@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup"])
def test_constant(schedule):
    assert set(rates(schedule=schedule)) == {RATE}


@pytest.mark.parametrize(
    ("fields", "closed_form"),
    [
        ({"schedule": "linear"}, lambda done: 1 - done),
        ({"schedule": "linear", "min_lr_ratio": 0.2}, lambda done: 1 - 0.8 * done),
        ({"schedule": "cosine"}, lambda done: math.cos(math.pi * done / 2) ** 2),
        (
            {"schedule": "cosine_with_min_lr", "min_lr_ratio": 0.1},
            lambda done: 0.55 + 0.45 * math.cos(math.pi * done),
        ),
        ({"schedule": "polynomial", "power": 2.0}, lambda done: (1 - done) ** 2),
        ({"schedule": "polynomial", "power": 0.5, "min_lr_ratio": 0.5}, lambda done: 0.5 + 0.5 * math.sqrt(1 - done)),
        ({"schedule": "constant_with_warmup"}, lambda done: 1.0),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("warmup", [0, 20])
def test_closed_forms(fields, closed_form, warmup):
    got = rates(**fields, warmup_updates=warmup)
    wanted = [RATE * (u + 1) / warmup for u in range(warmup)]
    wanted += [RATE * closed_form((u - warmup) / (100 - warmup)) for u in range(warmup, 100)]
    assert got == pytest.approx(wanted, rel=1e-9)
    assert got[warmup] == max(got) == RATE
    optimizer = Optimizer(learning_rate=RATE, **fields)
    for update in (100, 130):  # a run that was made shorter stays at the end of its schedule
        assert learning_rate(optimizer, update, 100) == pytest.approx(RATE * closed_form(1.0), abs=1e-12)


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        ("linear", lambda o: get_linear_schedule_with_warmup(o, 5, 40)),
        ("cosine", lambda o: get_cosine_schedule_with_warmup(o, 5, 40)),
        ("polynomial", lambda o: get_polynomial_decay_schedule_with_warmup(o, 5, 40, lr_end=0.1 * RATE, power=3.0)),
        ("cosine_with_min_lr", lambda o: get_cosine_with_min_lr_schedule_with_warmup(o, 5, 40, min_lr_rate=0.1)),
    ],
)
def test_after_the_warm_up_they_are_what_others_call_so(schedule, theirs):
    """transformers' schedules of the same names; their warm-up begins at 0, ours one update further."""
    fields = {"schedule": schedule, "warmup_updates": 5}
    if schedule == "polynomial":
        fields |= {"power": 3.0}
    if schedule in ("polynomial", "cosine_with_min_lr"):
        fields |= {"min_lr_ratio": 0.1}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler = theirs(optimizer)
    reference = []
    for _ in range(40):
        reference.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates(total=40, **fields)[5:] == pytest.approx(reference[5:], rel=1e-9)


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


@pytest.mark.parametrize("steps", [1, 4, 5, 6, 12, 100])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("dmd", {}),
        ("dmd", {"student_interval": 1}),
        ("dmd", {"student_interval": 3, "student_turn": "replaces"}),
        ("dmd_gan", {"student_interval": 7}),
        ("dmd_gan", {"student_turn": "replaces"}),
        ("dmd_warm_start", {"warm_start_steps": 5, "student_interval": 3}),
        ("self_forcing_warm_start", {"warm_start_steps": 100}),
        *((name, {}) for name in sorted(METHODS)),
    ],
)
def test_updates_repeat_as_the_method_says(name, fields, steps):
    method = METHODS[name](**fields)

    def named(updates):
        return tuple((update.role, update.loss.__qualname__) for update in updates)

    walked = Counter(named(method.updates(step)) for step in range(steps))
    counted = Counter()
    for times, updates in distinct(method, steps):
        counted[named(updates)] += times
    assert counted == walked


def test_a_long_run_is_counted_without_being_walked(tmp_path):
    assert total_updates(run_config(tmp_path, train__steps=10**9)) == {"student": 2 * 10**8, "fake_score": 10**9}


def test_a_warm_up_that_fills_the_run_is_said(tmp_path):
    warm = {"learning_rate": 1e-4, "warmup_updates": 160, "schedule": "cosine"}
    (message,) = warnings(run_config(tmp_path, roles__student__optimizer=warm))  # 160 student updates, 800 of the other
    assert message.startswith("roles.student.optimizer.warmup_updates = 160: this run has 160 updates of student")
    assert "'cosine' has no effect" in message
    half = run_config(tmp_path, roles__student__optimizer=warm | {"warmup_updates": 320})
    assert "ends at 5e-05 of 0.0001" in warnings(half)[0]
    assert warnings(run_config(tmp_path, roles__student__optimizer=warm | {"warmup_updates": 159})) == []


def test_an_average_that_hardly_moves_is_named(tmp_path):
    student = {"optimizer": {"learning_rate": 1e-4}, "ema_decay": 0.999}
    (message,) = warnings(run_config(tmp_path, roles__student=student))  # 160 student updates
    assert message.startswith(
        "roles.student.ema_decay = 0.999: after this run's 160 updates of student its average, which is evaluated and "
        "exported, is still 85% the weights that it began with"
    )
    assert message.endswith("Set roles.student.ema_warmup: true, or a decay of at most 0.981")
    assert "at most 0.91" in warnings(run_config(tmp_path, roles__student=student | {"ema_interval": 5}))[0]
    for better in ({"ema_decay": 0.981}, {"ema_decay": 0.981, "ema_interval": 1}, {"ema_warmup": True}):
        assert warnings(run_config(tmp_path, roles__student=student | better)) == []
    assert warnings(run_config(tmp_path, roles__student=student, evaluate__weights="trained")) == []


@pytest.mark.parametrize(("steps", "warned"), [(700, True), (3004, True), (3005, False)])
def test_a_run_that_ends_in_its_warm_start_is_warned(tmp_path, steps, warned):
    method = {"name": "dmd_warm_start", "student_interval": 5}  # 3,000 steps of warm start by default
    texts = warnings(run_config(tmp_path, method=method, train__steps=steps))
    assert [text.startswith(f"train.steps = {steps}: the warm start") for text in texts] == [True] * warned
    assert all("in step 3005" in text for text in texts)
