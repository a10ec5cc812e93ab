"""Fidelity of first frames to the pictures from which videos begin, and where these pictures come from."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ray_distill.config import ConfigError
from ray_distill.config.measures import FIRST_FRAME, check_names
from ray_distill.data.prepare import pipeline
from ray_distill.data.prepare.stages import FirstFrame
from ray_distill.data.read.video import write_clip
from ray_distill.data.source import Source
from ray_distill.evaluate import pictures
from ray_distill.evaluate.generate import _generate
from ray_distill.evaluate.metrics.picture import first_frame_error
from ray_distill.evaluate.samples import Candidate, kept_name
from ray_distill.train.driver.checks.evaluation import check_evaluation
from ray_distill.types import Sampler
from tests.unit.toys import run_config

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_the_error_of_a_first_frame_in_closed_form():
    """51 of 255 on half of the pixels, in one colour of three: 0.2 / 6. Later frames do not count."""
    picture = np.full((4, 6, 3), 100, np.uint8)
    videos = np.stack([np.stack([picture, 255 - picture])] * 3)
    videos[1, 0, :, :3, 1] += 51
    videos[2, 0] = 0
    found = first_frame_error(videos, [picture] * 3)
    assert found.dtype == torch.float64 and found.tolist() == pytest.approx([0.0, 0.2 / 6, 100 / 255])


def test_pictures_of_prompts_are_cropped_as_the_network_sees_them(tmp_path):
    thirds = np.repeat(np.uint8([0, 90, 200]), 24)  # of a picture of 24 x 72: the middle stays
    Image.fromarray(np.broadcast_to(thirds[None, :, None], (24, 72, 3)).copy()).save(tmp_path / "wide.png")
    own = {"prompts": {"one": "a", "two": "b"}, "images": dict.fromkeys(("one", "two"), str(tmp_path / "wide.png"))}
    found = pictures.of_prompts(run_config(tmp_path, evaluate=own), ["two", "one", "two"])
    assert len(found) == 3 and found[0].shape == (24, 24, 3) and (found[0] == 90).all()
    assert pictures.of_prompts(run_config(tmp_path), ["one"]) is None


def test_a_video_is_measured_against_its_own_picture(tmp_path):
    """The committed teacher keeps its picture; against another picture the measure is far from 0."""
    config = run_config(
        tmp_path, model={"path": str(EXAMPLES / "digits_i2v_teacher"), "from_image": True, "max_sequence_length": 8}
    )
    shown = [np.zeros((24, 24, 3), np.uint8) for _ in range(2)]
    shown[0][4:12, 6:14], shown[1][14:20, 2:20] = 220, 160
    models = config.model.encoders
    *rows, negative = models.text_encoder().encode(["a seven moving left", "a two moving up", ""])
    for row, picture in zip(rows, shown, strict=True):
        Image.fromarray(picture).save(tmp_path / "p.png")
        (own,) = pictures_rows(models, tmp_path / "p.png")
        row |= own
    teacher = Candidate("teacher", Sampler((1000.0, 500.0), "ode"))
    prompts = ["a seven moving left", "a two moving up"]
    right, wrong = (
        _generate(config, teacher, prompts, rows, negative, 1, ("flicker",), None, given).measures[FIRST_FRAME]
        for given in (shown, shown[::-1])
    )
    assert right.max() < 0.02 and wrong.min() > 0.1
    assert FIRST_FRAME not in _generate(config, teacher, prompts, rows, negative, 1, ("flicker",)).measures
    assert FIRST_FRAME not in _generate(config, teacher, prompts, rows, negative, 1, None, None, shown).measures
    names = [kept_name(config, teacher, prompts, 1, ("flicker",), pictured) for pictured in (False, True)]
    assert names[0] != names[1]


def pictures_rows(models, path):
    from ray_distill.data.pictures import picture_rows

    return picture_rows(models, [path], (9, 24, 24))


def test_the_datas_pictures_are_read_again(tmp_path, monkeypatch):
    """A clip's first frame, the picture of its own, and None for a file that is gone or is listed no more."""
    grey = np.uint8([[40, 120, 200], [90, 160, 230]])  # of three frames of two clips
    clips = np.broadcast_to(grey[:, :, None, None, None], (2, 3, 24, 24, 3)).copy()
    for name, clip in zip("ab", clips, strict=True):
        write_clip(tmp_path / f"{name}.mp4", clip, 8)
    Image.fromarray(clips[1, 2]).save(tmp_path / "own.png")
    rows = [
        f'{{"video": "{name}.mp4", "caption": "{name}"{image}}}'
        for name, image in (("a", ""), ("b", ', "picture": "own.png"'), ("gone", ""))
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(rows))
    source = Source(
        datasets=[{"manifest": tmp_path / "list.jsonl", "caption_column": "caption", "image_column": "picture"}],
        **{"frames": 3, "height": 24, "width": 24, "cache_dir": tmp_path / "cache"},
    )
    stored = [
        {"dataset": 0, "video": f"{name}.mp4", "caption": name, "number": 0, "content": ""}
        for name in ("a", "b", "gone", "never")
    ]
    cache = SimpleNamespace(rows=lambda numbers, columns: [stored[number] for number in numbers])

    class Local:
        def __init__(self, table):
            self.rows = table.to_pylist()

        def map(self, call, num_cpus):
            return SimpleNamespace(take_all=lambda: [call(row) for row in self.rows])

    monkeypatch.setattr(pipeline, "dataset", Local)
    monkeypatch.setattr(pipeline, "share", lambda cpus: cpus)
    own, first, *lost = pipeline.first_frames(source, cache, [1, 0, 2, 3])
    assert np.array_equal(own, clips[1, 2]) and lost == [None, None]
    row = {**stored[0], "place": 0, "image": "", "path": str(tmp_path / "a.mp4"), "height": 24, "width": 24}
    assert np.array_equal(first, FirstFrame(source)(row)["pixels"])
    assert np.abs(first.astype(int) - 40).max() < 8


def test_pictures_that_are_gone_leave_the_measure_out(tmp_path, monkeypatch, caplog):
    config = run_config(
        tmp_path, model={"path": str(EXAMPLES / "digits_i2v_teacher"), "from_image": True, "max_sequence_length": 8}
    )
    frame = np.zeros((24, 24, 3), np.uint8)
    monkeypatch.setattr(pipeline, "first_frames", lambda data, cache, numbers: [frame] * (len(numbers) - 1) + [None])
    assert pictures.of_rows(config, None, [4, 2, 4]) is None
    assert "first_frame_error is not measured: 1 of 2 pictures are gone" in caplog.text
    monkeypatch.setattr(pipeline, "first_frames", lambda data, cache, numbers: [frame + n for n in numbers])
    assert [picture[0, 0, 0] for picture in pictures.of_rows(config, None, [4, 2, 4])] == [4, 2, 4]
    text = run_config(tmp_path, model__path=str(EXAMPLES / "digits_teacher"), model__max_sequence_length=8)
    assert pictures.of_rows(text, None, [1]) is None


def test_a_goal_on_it_needs_videos_that_begin_from_a_picture(tmp_path):
    goal = {"goals": {"within": {"first_frame_error_difference": {"at_most": 0.01}}}}
    text = run_config(
        tmp_path, evaluate=goal, model__path=str(EXAMPLES / "digits_teacher"), model__max_sequence_length=8
    )
    with pytest.raises(ConfigError, match="first_frame_error_difference: this pipeline's videos begin from text"):
        check_evaluation(text)
    model = {"path": str(EXAMPLES / "digits_i2v_teacher"), "from_image": True, "max_sequence_length": 8}
    check_evaluation(run_config(tmp_path, evaluate=goal, model=model))
    with pytest.raises(ValueError, match="first_frame_error needs videos that begin from a picture"):
        check_names([FIRST_FRAME], (), False, True, (), lambda: False)
    check_names([FIRST_FRAME, "first_frame_error_difference"], (), False, True, (), lambda: True)
