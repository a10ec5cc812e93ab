"""However a run ends, its journal says how, and its page is there; no Ray is started."""

from contextlib import nullcontext

import pytest

from ray_distill.errors import Stopped
from ray_distill.jsonl import append_rows
from ray_distill.report.journal import read
from ray_distill.train import launch as module
from tests.unit.toys import run_config


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """(events of the journal, text of the page) of a run whose phases end as they are told."""

    def end(raised=None, steps=3):
        config = run_config(tmp_path, track__uri="", train__steps=3, method__student_interval=1)

        def phases(config, trial, outlets, signals, journal):
            journal.add("data", sheet="", clips=4)
            append_rows(config.run_dir / "metrics.jsonl", [{"step": s, "dmd_loss": 1.0} for s in range(steps)])
            if raised is not None:
                raise raised
            return {"prompt": "a"}

        for name in ("cluster", "watch_nodes"):
            monkeypatch.setattr(module, name, lambda *args, **kwargs: nullcontext())
        monkeypatch.setattr(module, "check", lambda config: None)
        monkeypatch.setattr(module, "_run", phases)
        context = nullcontext() if raised is None else pytest.raises(type(raised))
        with context:
            module.launch(config, source=lambda key: "run.yaml")
        page = config.run_dir / "report.html"
        return read(config.run_dir), page.read_text() if page.is_file() else ""

    return end


def test_a_run_that_is_done(ended, tmp_path):
    events, page = ended()
    assert [row["event"] for row in events] == ["start", "data", "end"]
    assert events[-1]["status"] == "FINISHED" and "trained to its last step, 3" in page
    assert ["train.steps", 3, "run.yaml"] in events[0]["config"] and events[0]["step"] == 0
    assert len([*tmp_path.rglob("losses.png")]) == 1
    assert "clips that were kept" in page


def test_a_run_that_is_stopped_or_fails(ended):
    events, page = ended(Stopped(15, 2), steps=2)
    assert (events[-1]["status"], events[-1]["error"][:17]) == ("KILLED", "stopped at step 2")
    assert "ended early, at step 2 of 3; not evaluated: stopped at step 2, which is saved" in page
    events, page = ended(RuntimeError("rank 1 met token=planted-1-secret"), steps=0)
    assert [row["event"] for row in events] == 2 * ["start", "data", "end"] and events[-1]["status"] == "FAILED"
    assert "RuntimeError: rank 1 met token=***" in page and "planted-1" not in page


def test_a_page_that_fails_is_no_failure_of_the_run(ended, monkeypatch):
    def fail(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_page", fail)
    events, page = ended()
    assert events[-1]["status"] == "FINISHED" and page == ""
