"""The page that compares: what differs, numbers with intervals, students of one prompt side by side."""

import json

import pytest

from ray_distill.cli import main
from ray_distill.report.compare import entries_of, write_comparison
from ray_distill.report.tables import number
from tests.unit.report.runs import REPORT, Page, rows, start, whole


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    other = {**REPORT, "student": REPORT["student"] | {"frechet": 31.0}, "missed": []}
    one = whole(folder, name="one")
    return one, whole(folder, other, name="two", method__student_interval=7)


def test_a_number_that_rounds_up_has_no_exponent():
    texts = {999.4: "999", 999.6: "1,000", -999.6: "-1,000", 1000.2: "1,000", 99.96: "100", 0.0001: "0.000100", 5: "5"}
    assert {value: number(value) for value in texts} == texts


def test_two_runs_differ_in_what_differs(runs, tmp_path, capsys):
    out = tmp_path / "both.html"
    assert main(["report", str(runs[0]), "--out", str(out), str(runs[1])]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    page = Page(out.read_text())
    assert "one 8 of 8 20.6 0.280 0.00200 0.912 (0.871 to 0.954) 3 its motion_ratio is 0.912" in page.line
    assert "two 8 of 8 31.0" in page.line
    differ = page.line.partition("Keys that differ")[2].partition("Students")[0]
    assert differ.split() == ["key", "one", "two", "method.student_interval", "5", "7"]
    assert page.tags.count("video") == 4 and page.tags.count("section") == 2  # two prompts, a column a run
    assert page.tags.count("img") == 1 and all(address.startswith("data:") for address in page.addresses)


def test_a_run_that_is_named_twice_counts_once(runs, tmp_path, capsys):
    out = tmp_path / "one.html"
    assert main(["report", str(runs[0]), str(runs[0].parent / "." / runs[0].name), "-o", str(out)]) == 0
    assert "Keys that differ" not in out.read_text()
    assert main(["report", str(runs[0]), "-o", "."]) == 2
    assert "such as page.html" in capsys.readouterr().err
    assert main(["report", str(runs[0]), "-o", str(tmp_path)]) == 2
    assert "a page is an html file" in capsys.readouterr().err
    kept = tmp_path / "run.yaml"
    kept.write_text("name: mine")
    assert main(["report", str(runs[0]), "-o", str(kept)]) == 2 and kept.read_text() == "name: mine"


def test_a_comparison_stands_beside_the_first_run(runs):
    assert write_comparison(runs) == runs[0].parent / "comparison.html"


def trial(sweep, name, rate, error=None, steps=8):
    folder = start(sweep / "trials_made_here", name=name, roles__student__optimizer__learning_rate=rate)
    rows(folder, steps)
    home = sweep / "runs" / name
    home.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(home)
    point = {"roles.student.optimizer.learning_rate": rate}
    (home / "trial.json").write_text(json.dumps({"point": point, "error": error}))


def test_a_sweep_stands_for_its_trials_best_first(tmp_path, capsys):
    sweep = tmp_path / "sweep"
    trial(sweep, "a", 0.5, error="RuntimeError: <b>NaN</b>", steps=2)
    trial(sweep, "b", 0.001)
    (sweep / "runs/c").mkdir()  # it failed before its run began
    (sweep / "runs/c/trial.json").write_text(json.dumps({"point": {"roles.student.optimizer.learning_rate": 2.0}}))
    (sweep / "sweep.json").write_text("{}")
    assert [entry.run.name for entry in entries_of(sweep)] == ["a", "b", "c"]
    (sweep / "trials.json").write_text(json.dumps([{"name": "b", "status": "done"}, {"name": "a", "status": "failed"}]))
    (sweep / "parallel.png").write_bytes(b"\x89PNG")
    assert main(["report", str(sweep)]) == 0
    assert capsys.readouterr().out.strip() == str(sweep / "report.html")
    assert entries_of(sweep)[0].run.name == "b"
    page = Page((sweep / "report.html").read_text())
    assert "b 0.00100 8 of 8 - done a 0.500 2 of 8 - failed" in page.line
    assert "data:image/png;base64,iVBORw==" in page.addresses
    for damaged in ('{"name": 1}', '["b"]'):
        (sweep / "trials.json").write_text(damaged)
        assert main(["report", str(sweep)]) == 2
        assert "trials.json: damaged (no list of trials" in capsys.readouterr().err
    (sweep / "trials.json").write_text('[{"name": "b"')
    assert main(["report", str(sweep)]) == 2
    assert "trials.json: damaged" in capsys.readouterr().err


def test_a_sweep_without_a_trial_is_the_users_mistake(tmp_path, capsys):
    (tmp_path / "sweep.json").write_text("{}")
    assert main(["report", str(tmp_path)]) == 2
    assert "the sweep has no trial yet" in capsys.readouterr().err
