"""Two digits pass before one another and never leave the picture."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ray_distill.data.read.clip import Cut
from ray_distill.data.read.transform import resize
from ray_distill.data.read.video import read_clip

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import two_digits

ROOM = two_digits.SIZE - two_digits.DIGIT


@pytest.fixture(scope="module")
def images():
    return load_digits().images


@pytest.fixture(scope="module")
def clips():
    return two_digits.plans(60, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_digits")
    two_digits.main([str(folder), "--count", "4"])
    return folder


def test_no_digit_leaves_the_picture_at_any_length(clips):
    for clip in clips[:20]:
        for path in clip.paths:
            places = path.at(np.arange(20_000))
            assert places.min() >= 0 and places.max() <= ROOM
            assert np.ptp(places, axis=0).min() > ROOM / 2  # nor does it stand still


def test_digits_begin_at_the_edges_and_one_covers_part_of_the_other(clips, images):
    covered = []
    for clip in clips[:12]:
        first, second = (path.at(np.arange(two_digits.FRAMES)) for path in clip.paths)
        assert np.allclose(first[0], [ROOM / 2, 0.025 * ROOM]) and np.allclose(second[0], [ROOM / 2, 0.975 * ROOM])
        glyphs = [two_digits.enlarged(images[image]) for image in clip.images]
        places = zip(first, second, strict=True)
        both = [two_digits.place(glyphs[0], *a) * two_digits.place(glyphs[1], *b) for a, b in places]
        covered.append(max(frame.max() for frame in both))
    assert min(covered) > 0.5


def test_the_digit_in_front_is_the_one_that_the_caption_says(images):
    labels = load_digits().target
    clip = two_digits.plans(1, seed=0)[0]
    still = two_digits.Path2D(np.zeros((2, 2)), np.ones((2, 2)), np.zeros((2, 2)))
    for depth, seen in (("in front of", 0), ("behind", 1)):
        shown = two_digits.Clip(clip.images, ("red", "blue"), depth, (still, still))
        caption = shown.caption(labels)
        digits = [two_digits.DIGITS[labels[image]] for image in clip.images]
        assert caption == f"a red {digits[0]} {depth} a blue {digits[1]}"
        pixel = np.unravel_index(two_digits.enlarged(images[clip.images[seen]]).argmax(), (24, 24))
        top = two_digits.draw(shown, images, 1)[0, ROOM // 2 + pixel[0], ROOM // 2 + pixel[1]]
        assert np.abs(top - np.array(two_digits.COLOURS[("red", "blue")[seen]])).max() <= 3


def test_speeds_lie_in_their_range(clips):
    low, high = two_digits.SPEED
    for clip in clips[:20]:
        for path in clip.paths:
            steps = np.diff(path.at(np.arange(20_000)), axis=0)
            assert low - 0.03 < np.sqrt((steps**2).sum(1).mean()) < high + 0.03


def test_a_longer_clip_begins_with_the_shorter_one(clips, images):
    long = two_digits.draw(clips[0], images, 40)
    assert np.array_equal(long[:33], two_digits.draw(clips[0], images))


def test_a_clip_depends_on_seed_and_number_alone(clips):
    def key(clip):
        return clip.images, clip.colours, clip.depth, clip.paths[0].phase.tolist()

    assert [key(clip) for clip in two_digits.plans(5, seed=0)] == [key(clip) for clip in clips[:5]]
    assert [key(clip) for clip in two_digits.plans(5, seed=1)] != [key(clip) for clip in clips[:5]]


def test_every_digit_has_its_images():
    labels = load_digits().target
    shown = {image for clip in two_digits.plans(600, seed=0) for image in clip.images}
    assert [int((labels[sorted(shown)] == digit).sum()) for digit in range(10)] == [two_digits.HANDWRITINGS] * 10


def test_files_hold_what_was_drawn(folder, images, capsys):
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    clips = two_digits.plans(4, seed=0)
    assert [row["caption"] for row in rows] == [clip.caption(load_digits().target) for clip in clips]
    frames = read_clip(str(folder / rows[2]["video"]), Cut(33)).frames
    assert frames.shape == (33, 96, 96, 3)
    error = resize(frames, 48, 48).astype(float) - two_digits.draw(clips[2], images)
    assert np.sqrt((error**2).mean()) < 6  # what the compression costs, of 255
    two_digits.main([str(folder), "--count", "4"])
    assert "nothing to do" in capsys.readouterr().out
