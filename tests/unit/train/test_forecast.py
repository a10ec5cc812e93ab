"""The plan of a run: made in a thread, once the run trains or is late."""

from threading import Event

import pytest

from ray_distill.report.journal import Journal, read
from ray_distill.train.driver import forecast as forecasting
from ray_distill.train.driver.forecast import LATE_S, Forecast
from tests.unit.toys import run_config


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(forecasting, "import_export", lambda: None)
    (tmp_path / "manifest.jsonl").write_text('{"video": "a.mp4", "caption": "a seven moving left"}\n')
    config = run_config(tmp_path)
    config.run_dir.mkdir(parents=True)
    return config


@pytest.mark.parametrize(("trains", "seconds"), [(True, 0.0), (False, 2 * LATE_S)])
def test_the_plan_is_made_once_the_run_trains_or_is_late(config, monkeypatch, trains, seconds):
    goes_on, clock = Event(), [0.0]
    monkeypatch.setattr(forecasting, "planned", lambda _: {"memory": 1} if goes_on.wait(30) else {})
    monkeypatch.setattr(forecasting.time, "monotonic", lambda: clock[0])
    forecast = Forecast(config, Journal(config.run_dir))
    assert not forecast.works(False)
    forecast.wait()  # nothing has begun
    assert not (config.run_dir / "journal.jsonl").exists()
    clock[0] = seconds
    assert forecast.works(trains) and forecast.works(trains)
    goes_on.set()
    forecast.wait()
    assert not forecast.works(trains)
    assert [row["memory"] for row in read(config.run_dir) if row["event"] == "plan"] == [1]


def test_its_error_is_raised_where_the_run_looks(config, monkeypatch):
    def fails(_):
        raise OSError("the model's folder is gone")

    monkeypatch.setattr(forecasting, "planned", fails)
    forecast = Forecast(config, Journal(config.run_dir))
    with pytest.raises(OSError, match="the model's folder is gone"):
        forecast.works(True)
        forecast.wait()
