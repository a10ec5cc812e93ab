"""A page that cannot be written costs a line, and never a run."""

from types import SimpleNamespace

from ray_distill.train.driver.publish import publish_page


def test_a_page_is_published_or_its_failure_is_a_line(tmp_path, capsys):
    sent = []
    tracker = SimpleNamespace(artifact=lambda path, wait: sent.append((path, wait)))
    publish_page(lambda: tmp_path / "report.html", tracker)
    assert sent == [(tmp_path / "report.html", False)] and capsys.readouterr().err == ""

    def fail():
        raise KeyError("student")

    publish_page(fail, tracker)
    assert len(sent) == 1 and "the page was not written (KeyError: 'student')" in capsys.readouterr().err
