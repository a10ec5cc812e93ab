"""Planted faults on clips with the spectrum of natural pictures: each is named by the metric that is made for it."""

import cv2
import numpy as np
import pytest
import torch

from ray_distill.config.measures import FIRST_FRAME, MEASURE_OF, ratio_name
from ray_distill.evaluate.compare import ratios
from ray_distill.evaluate.metrics import measures
from ray_distill.evaluate.metrics.consistency import network_measures
from ray_distill.evaluate.metrics.picture import first_frame_error
from ray_distill.evaluate.samples import Samples
from tests.unit.evaluate.judges import Colours, videomae

SIDE, FRAMES, FPS = 64, 9, 8
PROMPTS = ["a", "a", "b", "b", "c", "c"]
LUMA = np.float32([[1, 0, 1.402], [1, -0.344, -0.714], [1, 1.772, 0]])  # YCbCr to RGB


def texture(rng, side=160):
    """A colour picture uint8 [side, side, 3] whose amplitudes fall as 1 / frequency, with weaker colours than luma."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = np.inf
    planes = [np.fft.ifft2(np.exp(2j * np.pi * rng.random((side, side))) / frequency).real for _ in range(3)]
    planes = [
        plane / plane.std() * deviation + mean
        for plane, deviation, mean in zip(planes, (42, 22, 22), (120, 0, 0), strict=True)
    ]
    return (np.stack(planes, -1) @ LUMA.T).clip(0, 255).astype(np.uint8)


def natural(seed):
    """A clip uint8 [T, H, W, 3]: a window that glides over a texture along a smooth curve, and a second texture that
    passes before it."""
    rng = np.random.default_rng(seed)
    behind, before = texture(rng), texture(rng)
    turn, speed = rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 2.0)
    mask = cv2.GaussianBlur(np.pad(np.ones((24, 24), np.float32), 20), (0, 0), 1.5)[..., None]
    clip = []
    for t in range(FRAMES):
        angle = turn + 0.1 * t
        x, y = 80 + speed * t * np.cos(angle), 80 + speed * t * np.sin(angle)
        own = cv2.getRectSubPix(behind, (SIDE, SIDE), (x, y)).astype(np.float32)
        own = own * (1 - mask) + cv2.getRectSubPix(before, (SIDE, SIDE), (80 - 1.5 * t, 80)).astype(np.float32) * mask
        clip.append(own.round().clip(0, 255).astype(np.uint8))
    return np.stack(clip)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return {"video": videomae(tmp_path_factory.mktemp("judge"))}


@pytest.fixture(scope="module")
def teacher():
    return np.stack([natural(seed) for seed in range(len(PROMPTS))])


def samples(videos, judge, pictures):
    measured = measures(videos, FPS) | {FIRST_FRAME: first_frame_error(videos, pictures)}
    _, features = network_measures(videos, PROMPTS, judge, torch.device("cpu"))
    return Samples(None, None, None, 0.01, videos[:1], measured, features)


def test_the_clips_are_like_natural_ones(teacher):
    """Power falls with the square of the frequency, neighbouring pixels agree, and everything moves."""
    grey = teacher[:, 0].mean(-1) * np.outer(np.hanning(SIDE), np.hanning(SIDE))
    power = (np.abs(np.fft.fft2(grey)) ** 2).mean(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    some = (frequency > 0.06) & (frequency < 0.3)
    slope = np.polyfit(np.log(frequency[some]), np.log(power[some]), 1)[0]
    assert -3.0 < slope < -1.5
    found = measures(teacher, FPS)
    assert found["motion"].min() > 0.08 and found["moving"].all() and found["saturation"].min() > 0.1


def flickering(videos):
    """Each second frame is darker."""
    dark = videos.copy()
    dark[:, 1::2] = (0.7 * dark[:, 1::2]).astype(np.uint8)
    return dark


def blurred(videos):
    return np.stack([[cv2.GaussianBlur(frame, (0, 0), 1.2) for frame in clip] for clip in videos])


SLOW = ("motion", "motion_top", "flicker", "jitter")
VEIL = ("contrast", "sharpness", "saturation", "chroma")
FAULTS = {  # the student's videos; the ratios that fall below 0.7, those that rise above 1.3, and those that stay
    "static": (lambda v: np.repeat(v[:, :1], FRAMES, axis=1), SLOW, (), ("saturation", "contrast")),
    "slow": (lambda v: v[:, [0, 0, 0, 1, 1, 1, 2, 2, 2]], SLOW, (), ("saturation", "contrast")),
    "washed out": (
        lambda v: (0.5 * v + 0.5 * v.mean(-1, keepdims=True)).astype(np.uint8),
        ("saturation", "chroma"),
        (),
        ("motion", "contrast", "sharpness"),
    ),
    "veiled": (lambda v: (0.5 * v + 60).astype(np.uint8), VEIL, (), ("motion", "motion_top")),
    "blurred": (blurred, ("sharpness",), (), ("motion", "motion_top")),
    "flickering": (flickering, (), ("flicker", "jitter"), ("saturation",)),
    "one video": (lambda v: v[[0, 0, 2, 2, 4, 4]], ("video_diversity",), (), ("motion", "contrast", "sharpness")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_by_the_metric_that_is_made_for_it(teacher, judge, fault):
    spoil, low, high, same = FAULTS[fault]
    pictures = [clip[0] for clip in teacher]
    rows = ratios([samples(spoil(teacher), judge, pictures)], [samples(teacher, judge, pictures)], PROMPTS)
    found = {MEASURE_OF[name]: row for name, row in rows.items()}
    for name in low:
        assert found[name]["value"] < 0.7 and found[name]["high"] < 0.9, (name, found[name])
    for name in high:
        assert found[name]["value"] > 1.3 and found[name]["low"] > 1.1, (name, found[name])
    for name in same:
        assert found[name]["value"] == pytest.approx(1.0, abs=0.1), (name, found[name])


def test_a_student_that_leaves_its_picture_is_named(teacher, judge):
    """By the difference of the first frames' errors, which is 0 for one that keeps it."""
    pictures = [clip[0] for clip in teacher]
    kept, left = samples(teacher, judge, pictures), samples(teacher, judge, [*pictures[1:], pictures[0]])
    row = ratios([left], [kept], PROMPTS)[ratio_name(FIRST_FRAME)]
    assert row["low"] > 0.1 and ratios([kept], [kept], PROMPTS)[ratio_name(FIRST_FRAME)]["value"] == 0.0


def test_a_student_that_ignores_its_prompt_is_named(teacher, monkeypatch):
    """By the agreement with the text alone: its clips are the teacher's, each of another prompt."""
    monkeypatch.setattr("ray_distill.evaluate.metrics.consistency.load_network", lambda folder, device: Colours())
    prompts = ["red", "red", "green", "green", "blue", "blue"]
    tints = 0.3 + 0.7 * np.eye(3)[[("red", "green", "blue").index(prompt) for prompt in prompts]]
    tinted = (teacher * tints[:, None, None, None]).astype(np.uint8)

    def shown(videos):
        measured, _ = network_measures(videos, prompts, {"text": 0, "subject": 0}, torch.device("cpu"))
        return Samples(None, None, None, 0.01, videos[:1], measures(videos, FPS) | measured)

    rows = ratios([shown(np.roll(tinted, 2, axis=0))], [shown(tinted)], prompts)
    named = rows.pop("text_agreement_ratio")
    assert named["value"] < 0.5 and named["high"] < 0.7
    for name, row in rows.items():
        assert row["value"] == pytest.approx(float(not name.endswith("_difference"))), name


def test_an_unchanged_teacher_on_another_seed_is_itself():
    """Intervals hold 1, or 0 of a difference: at 95 % a few of them need not, and none is far from it."""
    prompts = [f"prompt {number}" for number in range(24)]
    arms = [
        Samples(None, None, None, 0.01, np.zeros((1, 2, 4, 4, 3), np.uint8), measures(videos, FPS))
        for videos in (
            np.stack([natural(len(prompts) * seed + number) for number in range(len(prompts))]) for seed in (1, 2)
        )
    ]
    rows = ratios(arms[:1], arms[1:], prompts)
    assert {ratio_name(name) for name in ("motion", "saturation", "sharpness", "flicker", "moving")} <= set(rows)
    same = {name: float(not name.endswith("_difference")) for name in rows}
    outside = [name for name, row in rows.items() if not row["low"] <= same[name] <= row["high"]]
    assert len(outside) <= 2, outside
    for name, row in rows.items():
        assert abs(row["value"] - same[name]) <= row["high"] - row["low"], (name, row)  # four standard errors
