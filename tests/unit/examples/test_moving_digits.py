import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ray_distill.data.read.clip import Cut
from ray_distill.data.read.transform import resize
from ray_distill.data.read.video import read_clip

REPOSITORY = Path(__file__).parents[3]
sys.path.insert(0, str(REPOSITORY / "examples"))
import moving_digits  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Made by the very command that the example's docstring gives."""
    folder = tmp_path_factory.mktemp("digits")
    command = [sys.executable, str(REPOSITORY / "examples" / "moving_digits.py"), str(folder), "--count", "40"]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True, timeout=120)
    return folder


def rows(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_clips_show_what_the_manifest_says(folder):
    assert len(rows(folder)) == 40
    for row in rows(folder)[:8]:
        clip = resize(read_clip(str(folder / row["video"]), Cut(9)).frames, 24, 24)[..., 0].astype(float)
        y, x = (((clip * axis).sum((1, 2)) / clip.sum((1, 2))) for axis in np.mgrid[:24, :24])
        article, digit, moving, direction = row["caption"].split()
        assert (article, moving) == ("an" if digit == "eight" else "a", "moving") and digit in moving_digits.DIGITS
        moved = {"left": x[0] - x[8], "right": x[8] - x[0], "up": y[0] - y[8], "down": y[8] - y[0]}
        assert moved[direction] == pytest.approx(8, abs=0.7)  # one pixel a frame


def test_clips_are_96_pixels_and_9_frames(folder):
    assert read_clip(str(folder / rows(folder)[0]["video"]), Cut(9)).frames.shape == (9, 96, 96, 3)


def test_a_second_run_does_nothing_and_an_interrupted_one_is_done_again(folder, capsys):
    stamp = (folder / "videos" / "00000.mp4").stat().st_mtime_ns
    moving_digits.main([str(folder), "--count", "40"])
    assert "nothing to do" in capsys.readouterr().out
    assert (folder / "videos" / "00000.mp4").stat().st_mtime_ns == stamp
    (folder / "manifest.jsonl").unlink()
    moving_digits.main([str(folder), "--count", "40"])
    assert "nothing to do" not in capsys.readouterr().out
    assert (folder / "videos" / "00000.mp4").stat().st_mtime_ns != stamp


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(folder, tmp_path):
    moving_digits.main([str(tmp_path / "same"), "--count", "40"])
    moving_digits.main([str(tmp_path / "other"), "--count", "40", "--seed", "1"])
    for name in ("manifest.jsonl", "videos/00000.mp4", "videos/00039.mp4"):
        assert (tmp_path / "same" / name).read_bytes() == (folder / name).read_bytes()
    assert (tmp_path / "other" / "manifest.jsonl").read_text() != (folder / "manifest.jsonl").read_text()


def test_plan_uses_every_image_before_any_twice_and_balances_directions():
    labels = np.arange(1797) % 10
    plan = moving_digits.plan(labels, 4000, seed=3)
    images = [image for image, _ in plan]
    assert len(set(images[:1797])) == 1797 and len(set(images[1797:3594])) == 1797
    pairs = Counter((labels[image], direction) for image, direction in plan)
    assert len(pairs) == 40
    for digit in range(10):
        counts = [pairs[digit, direction] for direction in moving_digits.DIRECTIONS]
        assert max(counts) - min(counts) <= 1
    totals = Counter(direction for _, direction in plan)
    assert max(totals.values()) - min(totals.values()) <= 4
