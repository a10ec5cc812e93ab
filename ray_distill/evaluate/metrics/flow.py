"""Motion of a video by dense optical flow: speed of the picture and of its fastest part, and whether it moves.

Farnebäck's flow (Two-Frame Motion Estimation Based on Polynomial Expansion, 2003) as OpenCV computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

SHORT_SIDE = 256  # short side, in pixels, to which larger frames are shrunk
WINDOW = 9  # rows and columns that move together
FASTEST = 0.05  # share of pixels that motion_top averages
MOVES = 6 / 256  # VBench's threshold of a moving pair, in short sides
Flow = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""Lengths [h, w] of the flow from each of some uint8 frames [h, w, 3] to the next, in short sides of the picture."""


def farneback(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Farnebäck's :data:`Flow`: 4 levels, windows of 9 pixels."""
    luma, side = [_grey(frame) for frame in frames], min(frames[0].shape[:2])
    lengths = []
    for first, second in zip(luma, luma[1:], strict=False):
        flow = cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 4, WINDOW, 3, 5, 1.1, 0)  # type: ignore[call-overload]
        lengths.append(cv2.magnitude(flow[..., 0], flow[..., 1]) / side)
    return lengths


def motions(video: np.ndarray, fps: float, flow: Flow = farneback) -> dict[str, float]:
    """``motion`` and ``motion_top`` of uint8 frames [T, H, W, 3], in short sides of the picture per second, and
    ``moving``, 0 or 1: docs/metrics.md defines them. A video of one frame has no motion.

    ``motion`` weighs each pixel by the smaller eigenvalue of the gradients around it (Shi and Tomasi, 1994): flat
    patches and plain edges, whose motion no local method knows, count little.
    """
    frames = _shrunk(video)
    lengths = flow(frames)
    luma = [_grey(frame) for frame in frames]
    means = []
    for first, second, length in zip(luma, luma[1:], lengths, strict=False):
        weights = cv2.cornerMinEigenVal(cv2.addWeighted(first, 0.5, second, 0.5, 0), WINDOW)
        total = float(weights.sum())  # not by OpenCV, whose sums of floats depend on their place in memory
        means.append(float((weights * length).sum()) / total if total > 0 else 0.0)
    tops = [_top(length) for length in lengths]
    every = max(1, round(fps / 8))
    sampled = frames[::every]
    least = max(1, round(4 * len(sampled) / 16))  # a short clip would need no pair
    strides = tops if every == 1 else [_top(length) for length in flow(sampled)]
    return {
        "motion": fps * float(np.mean(means or [0.0])),
        "motion_top": fps * float(np.mean(tops or [0.0])),
        "moving": float(sum(top > MOVES for top in strides) >= least),
    }


def _shrunk(video: np.ndarray) -> Sequence[np.ndarray]:
    """The frames [h, w, 3], with a short side of at most 256 pixels."""
    factor = min(video.shape[1:3]) / SHORT_SIDE
    size = (round(video.shape[2] / factor), round(video.shape[1] / factor))
    return [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in video] if factor > 1 else list(video)


def _grey(frame: np.ndarray) -> np.ndarray:
    luma: np.ndarray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return luma


def _top(lengths: np.ndarray) -> float:
    """The mean of the longest 5 %."""
    count = max(1, int(FASTEST * lengths.size))
    return float(np.partition(lengths, -count, axis=None)[-count:].mean())
