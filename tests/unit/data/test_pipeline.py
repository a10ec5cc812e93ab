import io

from ray_distill.data.prepare import progress as lines


def test_progress_counts_and_says_the_time_left(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(lines.time, "monotonic", lambda: now[0])
    progress = lines.Progress("clips", 100, said.append)
    for time, done, bad in ((30, 10, 0), (32, 10, 1), (35, 20, 0), (36, 10, 0), (40, 10, 0), (41, 40, 2)):
        now[0] = time
        progress.add(done, bad)
    assert said == [
        "   clips: 10 of 100, 0 skipped",
        "   clips: 40 of 100, 1 skipped, 6/s, 10 s left",
        "   clips: 60 of 100, 1 skipped, 5/s, 8 s left",
        "   clips: 100 of 100, 3 skipped",
    ]


def test_a_terminal_has_a_bar_in_place_of_lines(monkeypatch):
    said, out = [], io.StringIO()
    out.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", out)
    progress = lines.Progress("clips", 100, said.append)
    with progress.bar:
        for done, bad in ((10, 0), (90, 2)):
            progress.add(done, bad)
    assert said == [] and out.getvalue().endswith("\n")
    assert "   clips: 100/100 100 %|" in out.getvalue() and "left, 2 skipped" in out.getvalue()
