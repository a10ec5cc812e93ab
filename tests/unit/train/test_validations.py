import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ray_distill.checkpoint.layout import folder_name
from ray_distill.evaluate.latents import NotFinite
from ray_distill.evaluate.samples import Samples
from ray_distill.train.driver import validations
from ray_distill.train.driver.validations import Validations, read
from tests.checkpoints import write
from tests.unit.toys import run_config


class Told:
    """A tracker that remembers."""

    def __init__(self):
        self.rows, self.folders = [], []

    def metrics(self, step, values):
        self.rows.append((step, values))

    def videos(self, folder, step):
        self.folders.append((folder, step))


STARTED = []


class Generator:
    """Samples at once what a checkpoint's folder is called; ``slow`` tasks are not done when asked. The teacher's are
    there at once."""

    real = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    prompts = ("a one",)

    def __init__(self, config, cache):
        pass

    def start(self, candidate, seed, num_cpus):
        STARTED.append(candidate.role)
        return candidate.checkpoint or candidate.role


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Makes validations of a run of 8 steps each 4, on a Ray that is not there."""
    ready, pictures = set(), np.zeros((1, 2, 8, 8, 3), np.uint8)

    def get(task, timeout):
        if task == "teacher":
            return Samples(Generator.real, 0.5, 0.3, 0.01, pictures, {"motion": torch.tensor([0.5])})
        if not task.is_dir():
            raise FileNotFoundError(task)
        step = int(task.name[5:])
        return Samples(Generator.real + step, 0.5, 0.3, 0.01, pictures, {"motion": torch.tensor([0.1 * step])})

    STARTED.clear()
    ready.add("teacher")
    fake = SimpleNamespace(wait=lambda tasks, timeout: ([t for t in tasks if t in ready], []), get=get)
    monkeypatch.setattr(validations, "ray", fake)
    monkeypatch.setattr(validations, "Generator", Generator)
    config = run_config(tmp_path, train__steps=8, evaluate__every=4)
    config.run_dir.mkdir(parents=True)
    told, reported = Told(), []

    def checkpoint(step):
        folder = config.run_dir / folder_name(step)
        write(folder, [], {"step": step}, 0, 1, lambda part: [part])
        return folder

    def make():
        return Validations(config, None, told, reported.append)

    return SimpleNamespace(config=config, told=told, reported=reported, checkpoint=checkpoint, ready=ready, make=make)


def test_each_due_checkpoint_is_measured_once_in_order(run):
    found = run.make()
    found.poll()
    assert run.reported == []
    first = run.checkpoint(4)
    found.poll()  # starts
    found.poll()  # not done yet
    assert run.reported == []
    run.ready.add(first)
    found.poll()
    assert [row["step"] for row in run.reported] == [4]
    run.checkpoint(8)
    found.finish()
    assert [row["step"] for row in run.reported] == [4, 8]
    assert run.reported[0]["frechet"] < run.reported[1]["frechet"] and run.reported[0]["accuracy"] == 0.5
    assert [step for step, _ in run.told.rows] == [4, 8] and "validation/frechet" in run.told.rows[0][1]
    assert [step for _, step in run.told.folders] == [4, 8]
    assert len(list(run.told.folders[0][0].glob("*.mp4"))) == 1
    assert read(run.config.run_dir) == run.reported


def test_a_rollback_forgets_what_was_measured_after_its_step(run):
    first, last = run.checkpoint(4), run.checkpoint(8)
    run.ready.update((first, last))
    measured = run.make()
    measured.finish()
    assert [row["step"] for row in measured.rows] == [4, 8]
    measured.rewind(8)
    assert [row["step"] for row in measured.rows] == [4, 8]
    measured.rewind(4)
    assert [row["step"] for row in measured.rows] == [row["step"] for row in read(run.config.run_dir)] == [4]
    measured.finish()
    assert [row["step"] for row in run.reported] == [4, 8, 8]
    measured.rewind(0)
    measured.poll()  # starts step 4 again
    measured.rewind(0)
    measured.finish()
    assert [row["step"] for row in run.reported] == [4, 8, 8, 4, 8]


def test_the_teachers_video_stands_left_of_the_students(run, monkeypatch):
    """In the run's folder and so in MLflow, which gets the folder; the hook names it."""
    shades = {"teacher": 0, "student": 200}
    written, sent = {}, []
    monkeypatch.setattr(
        "ray_distill.evaluate.videos.write_clip", lambda path, video, fps, sound=None: written.update({path: video})
    )
    get = validations.ray.get

    def shaded(task, timeout):
        shade = shades["teacher" if task == "teacher" else "student"]
        return replace(get(task, timeout), videos=np.full((1, 2, 8, 8, 3), shade, np.uint8))

    monkeypatch.setattr(validations.ray, "get", shaded)
    run.checkpoint(4)
    found = run.make()
    found.hook = SimpleNamespace(send=lambda event, message, **values: sent.append((event, values)))
    found.finish()
    folder = run.config.run_dir / "validation_videos" / "step_000004"
    (pair,) = [video for path, video in written.items() if path.parent == folder / "beside_teacher"]
    across = pair.shape[2] // 2
    assert pair.shape[2] == 2 * pair.shape[1]
    assert (pair[:, :, :across] == 0).all() and (pair[:, :, across:] == 200).all()
    assert (folder, 4) in run.told.folders
    ((event, values),) = sent
    assert event == "validation" and values["videos"] == str(folder.absolute()) and values["step"] == 4


@pytest.mark.parametrize("wanted", [True, False])
def test_each_is_compared_with_the_teacher_which_is_sampled_once(run, tmp_path, wanted):
    config = run_config(tmp_path, train__steps=8, evaluate={"every": 4, "validation_ratios": wanted})
    run.checkpoint(4)
    run.checkpoint(8)
    Validations(config, None, run.told, run.reported.append).finish()
    assert [role for role in STARTED if role == "student"] == ["student"] * 2
    assert STARTED.count("teacher") == wanted
    ratios = [row.get("motion_ratio") for row in run.reported]
    assert ratios == (pytest.approx([0.8, 1.6]) if wanted else [None, None])
    assert len(list(config.run_dir.glob("validation_videos/*/beside_teacher/*.mp4"))) == 2 * wanted


def test_a_run_that_resumes_tells_again_and_measures_no_more(run):
    run.checkpoint(4)
    run.make().finish()
    run.checkpoint(8)
    again = run.make()
    assert [row["step"] for row in run.reported] == [4, 4]
    again.finish()
    assert [row["step"] for row in run.reported] == [4, 4, 8]
    assert [row["step"] for row in read(run.config.run_dir)] == [4, 8]


def test_a_checkpoint_in_the_writing_waits_and_one_that_is_gone_is_passed_over(run, capsys):
    folder = run.checkpoint(4)
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    manifest.unlink()
    found = run.make()
    found.poll()
    assert found._running is None
    manifest.write_text(text)
    found.poll()
    assert found._running is not None
    for path in folder.iterdir():  # retention was faster than the task
        path.unlink()
    folder.rmdir()
    found.poll(wait=True)
    assert (
        "step 4 is not validated: its checkpoint was already deleted; raise train.checkpoints_keep"
        in capsys.readouterr().err
    )
    run.checkpoint(8)
    found.finish()
    assert [row["step"] for row in run.reported] == [8]


def test_the_average_and_the_trained_weights_can_be_shown_side_by_side(run, tmp_path):
    run.config = run_config(
        tmp_path,
        name="both",
        train__steps=8,
        evaluate={"every": 4, "weights": "both"},
        roles__student__ema_decay=0.9,
    )
    folder = run.config.run_dir / folder_name(4)
    write(folder, [], {"step": 4}, 0, 1, lambda part: [part])
    Validations(run.config, None, run.told, run.reported.append).poll()
    found = Validations(run.config, None, run.told, run.reported.append)
    found.finish()
    (row,) = run.reported
    assert row["trained_frechet"] == row["frechet"]
    videos = run.config.run_dir / "validation_videos" / "step_000004"
    assert len(list(videos.glob("*.mp4"))) == len(list(videos.glob("trained/*.mp4"))) == 1


def test_the_best_and_the_one_that_is_sampled_stay(run):
    found = run.make()
    found.rows += [{"step": 1, "frechet": 3.0}, {"step": 2, "frechet": 1.0}, {"step": 3, "frechet": float("nan")}]
    found.rows += [{"step": 4}, {"step": 5, "frechet": 2.0}]
    assert found.kept == {2}
    run.checkpoint(4)
    found.poll()
    assert found.kept == {2, 4}
    found.config = run_config(run.config.output_dir.parent, train__checkpoints_keep_best=0)
    assert found.kept == {4}


def test_nothing_is_due_unless_asked_for(run, tmp_path):
    config = run_config(tmp_path / "other", train__steps=8)
    found = Validations(config, None, run.told)
    found.finish()
    assert found.rows == [] and json.dumps(run.told.rows) == "[]"


def test_samples_that_are_not_finite_cost_their_validation_and_no_run(run, capsys, monkeypatch):
    def get(task, timeout):
        raise NotFinite("1 of 4 samples are not finite")

    run.checkpoint(4)
    monkeypatch.setattr(validations.ray, "get", get)
    own = Validations(run.config, None, run.told, None)
    own.poll()
    own.poll(wait=True)
    assert "step 4 is not validated: 1 of 4 samples are not finite" in capsys.readouterr().err
    assert read(run.config.run_dir) == []
    trial = run.make()
    trial.poll()
    with pytest.raises(NotFinite):
        trial.poll(wait=True)
