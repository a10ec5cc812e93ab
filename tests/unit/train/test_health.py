"""Each warning of a run's rows is said once, with its remedy, and MLflow has them all."""

from types import SimpleNamespace

from ray_distill.train.driver.health import Health


def test_a_warning_is_said_once_and_tracked(capsys):
    tags = []
    rows = [{"step": s, "fake_score_over_floor": 1.0 + s // 50} for s in range(200)]
    health = Health(rows[:100], False, SimpleNamespace(tags=tags.append))
    assert tags == [] and capsys.readouterr().err == ""
    for first in range(100, 200, 10):
        health.take(rows[first : first + 10])
    health.take([])
    said = capsys.readouterr().err
    assert said.count("warning: step 149: the fake score lags behind the student") == 1
    assert len(tags) == 1 and "student_interval 5 to 10" in tags[0]["health"]


def test_bf16_alone_is_warned_of_its_rounding(capsys):
    rows = [{"step": s, "bf16_share": 0.4} for s in range(50)]
    for bf16 in (False, True):
        tags = []
        Health([], bf16, SimpleNamespace(tags=tags.append)).take(rows)
        assert bool(tags) == bf16
    assert "0.40 of the difference" in capsys.readouterr().err
