"""A page or a plot that cannot be written costs a line, and never a run."""

from types import SimpleNamespace

from ray_distill.aside import aside
from ray_distill.jsonl import append_rows
from ray_distill.train.driver.publish import plot, publish_page, publish_plot


def test_a_page_is_published_or_its_failure_is_a_line(tmp_path, capsys):
    sent = []
    tracker = SimpleNamespace(artifact=lambda path, wait: sent.append((path, wait)))
    publish_page(lambda: tmp_path / "report.html", tracker)
    assert sent == [(tmp_path / "report.html", False)] and capsys.readouterr().err == ""

    def fail():
        raise KeyError("student")

    publish_page(fail, tracker)
    assert len(sent) == 1 and "the page was not written (KeyError: 'student')" in capsys.readouterr().err


def test_a_plot_is_published_or_its_failure_is_a_line(tmp_path, capsys):
    sent = []
    tracker = SimpleNamespace(artifact=sent.append)
    publish_plot(aside(lambda: plot(tmp_path, {})), tmp_path, tracker)
    assert sent == []  # a run without a row
    append_rows(tmp_path / "metrics.jsonl", [{"step": step, "dmd_loss": 1.0} for step in (1, 2)])
    publish_plot(aside(lambda: plot(tmp_path, {})), tmp_path, tracker)
    assert sent == [tmp_path / "losses.png"] and sent[0].is_file() and capsys.readouterr().err == ""

    def fail():
        raise OSError("the disk is full")

    publish_plot(aside(fail), tmp_path, tracker)
    assert len(sent) == 1 and "losses.png was not written (OSError: the disk is full)" in capsys.readouterr().err
