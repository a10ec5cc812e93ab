import io

import pytest

from ray_distill.train.driver import progress
from ray_distill.train.driver.progress import Progress, clock


@pytest.fixture
def now(monkeypatch):
    """A clock that a test sets."""
    at = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: at[0])
    return at


class Terminal(io.StringIO):
    def isatty(self):
        return True


def rows(*steps, **values):
    return [{"step": float(step), **values} for step in steps]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (9.4, "0:09"), (59.6, "1:00"), (75, "1:15"), (3700, "1:01:40"), (90061, "25:01:01")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_rows_that_come_again_are_dropped(now):
    shown = Progress(100, out=io.StringIO())
    assert shown.new(rows(0, 1, 2)) == rows(0, 1, 2)
    assert shown.new(rows(1, 2, 3, 4)) == rows(3, 4)
    assert shown.new(rows(3, 4)) == shown.new([]) == []
    assert shown.new(rows(5, 6, 5, 6, 7)) == rows(5, 6, 7)
    assert Progress(100, last_step=7, out=io.StringIO()).new(rows(6, 7, 8)) == rows(8)


def test_rows_come_anew_from_the_step_of_a_rollback(now):
    shown = Progress(100, out=Terminal())
    shown.new(rows(0, 1, 2, 3, student_loss=9.0))
    shown.rewind(2)
    assert shown.new(rows(1, 2, 3, student_loss=1.0)) == rows(2, 3, student_loss=1.0)
    assert shown._means["student_loss"] == 1.0 and shown._bar.n == 4
    shown.rewind(50)  # a rollback to a step beyond the rows changes nothing
    assert shown.new(rows(3, 4)) == rows(4)


def test_pace_and_eta(now):
    out = io.StringIO()
    shown = Progress(100, out=out)
    shown.new(rows(0, dmd_loss=2.0, student_lr=1.0))
    now[0] += 20
    shown.new(rows(*range(1, 41), dmd_loss=2.0))
    first, second = out.getvalue().splitlines()
    assert first.startswith("step   1/100    1 %") and "ETA" not in first and first.endswith("dmd_loss 2.0000")
    assert second.startswith("step  41/100   41 %")
    assert "2.00 steps/s  ETA 0:30" in second  # 40 steps in 20 s; 59 are left
    assert "student_lr" not in out.getvalue()


def test_a_resumed_run_counts_its_own_steps(now):
    out = io.StringIO()
    shown = Progress(100, last_step=49, out=out)
    shown.new(rows(50))
    now[0] += 10
    shown.new(rows(*range(51, 61)))
    assert "1.00 steps/s  ETA 0:39" in out.getvalue()


def test_losses_are_smoothed(now):
    out = Terminal()
    shown = Progress(100, out=out)
    shown.new(rows(0, a_loss=1.0) + rows(1, a_loss=2.0))
    assert "a_loss 1.1000" in out.getvalue()


def test_a_log_gets_a_line_now_and_then_and_always_the_last(now):
    out = io.StringIO()
    shown = Progress(30, out=out, every_s=10)
    for step in range(30):
        shown.new(rows(step))
        now[0] += 1
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["1/30", "11/30", "21/30", "30/30"]


def test_a_terminal_has_one_live_line():
    out = Terminal()
    shown = Progress(2, out=out)
    shown.new(rows(0))
    shown.new(rows(1))
    assert "\n" not in out.getvalue()
    shown.close()
    assert out.getvalue().count("\n") == 1
    assert "step: 2/2 100 %|" in out.getvalue().splitlines()[-1].rpartition("\r")[2]


def test_the_clock_goes_on_before_the_first_step():
    out = Terminal()
    shown = Progress(2, out=out)
    before = len(out.getvalue())
    assert shown.new([]) == [] and "step: 0/2" in out.getvalue()[before:]


def test_the_bar_of_a_resumed_run_begins_where_it_resumes():
    out = Terminal()
    shown = Progress(100, last_step=49, out=out)
    shown.new(rows(*range(48, 60), a_loss=1.0))
    last = out.getvalue().rpartition("\r")[2]
    assert last.startswith("step: 60/100  60 %|") and last.rstrip().endswith("left, a_loss 1.0000")
