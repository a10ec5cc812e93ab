"""VBench's numbers, which come after the end of a run, go into the run that MLflow has."""

from mlflow import MlflowClient

from ray_distill.cli import main
from ray_distill.report.vbench import new_numbers
from ray_distill.track.tracker import Tracker
from tests.unit.report.runs import whole
from tests.unit.report.test_vbench import results


def test_they_come_into_the_finished_run_once(uri, tmp_path, capsys):
    folder = whole(tmp_path)
    tracker = Tracker.start(uri, "digits", "judged", {}, {}, folder=folder)
    tracker.end("FINISHED")
    results(folder, "student", subject_consistency=(0.9, [0.92, 0.88]), dynamic_degree=(0.5, [True, False]))
    results(folder, "teacher_many", subject_consistency=(0.95, [1.0, 0.9]))
    for line in ("1 calls were sent to MLflow, 0 wait", "0 calls were sent"):
        assert main(["track", "sync", str(folder)]) == 0 and line in capsys.readouterr().out
    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(tracker.run_id)
    found = {name: value for name, value in run.data.metrics.items() if name.startswith("vbench/")}
    assert run.info.status == "FINISHED" and found["vbench/student/dynamic_degree"] == 0.5
    assert set(found) == {
        *(f"vbench/{sampler}/subject_consistency" for sampler in ("student", "teacher_many")),
        *(f"vbench/ratio/subject_consistency{end}" for end in ("", "_low", "_high")),
        "vbench/student/dynamic_degree",
    }
    (point,) = client.get_metric_history(tracker.run_id, "vbench/ratio/subject_consistency")
    assert (point.step, round(point.value, 6)) == (8, round(1.8 / 1.9, 6))
    assert new_numbers(folder) == {}
    results(folder, "student", name="later", aesthetic_quality=(0.5, [0.5, 0.5]))
    assert new_numbers(folder)["vbench/student/aesthetic_quality"] == 0.5
